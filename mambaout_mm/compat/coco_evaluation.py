"""COCO's scores by a library that computes the same in C++, where it is installed."""

import sys
from importlib.util import find_spec


def use_faster_coco_eval() -> bool:
    """Let faster-coco-eval stand in for pycocotools in this process, as its authors intend.

    It gives the same scores, to the last digit, in a quarter of the time. Only where it is
    installed, and not where pycocotools has been imported already.

    Returns:
        bool: Whether it stands in.
    """
    if find_spec('faster_coco_eval') is None:
        return False
    import faster_coco_eval

    if 'pycocotools' not in sys.modules:
        faster_coco_eval.init_as_pycocotools()
    return sys.modules['pycocotools'] is faster_coco_eval
