"""What MMEngine's counter of FLOPs does not know: the selective scan, and fused attention.

Both counts of a scan of length L over D channels with N states, and a skip connection D:

* :func:`scan_flops`, 9 L D N + L D, as VMamba and the papers after it print it
  (``flops_selective_scan_fn``, MzeroMiko/VMamba ``csms6s.py`` at 2ed52ea; state-spaces/mamba issue
  #110). It counts a multiplication and an addition as two, where convolutions and products count a
  pair of them as one.
* :func:`scan_in_pairs`, 4 L D N + 2 L D, counts each multiplication once, with the addition that
  follows it: ``delta * A``, ``(delta * u) * B``, the state's update and its product with ``C`` for
  each state, ``delta * u`` and ``D * u`` for each channel.

Attention counts its two matrix products, as MMEngine counts them where they are not fused.
"""

import math
from typing import Any

from mmengine.analysis.jit_handles import get_shape

SCAN = 'mambaout_mm::selective_scan'


def scan_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of ``mambaout_mm::selective_scan``, given a trace's values: as published."""
    elements, states, skip = _scan_sizes(inputs)
    return (9 * states + skip) * elements


def scan_in_pairs(inputs: list[Any], outputs: list[Any]) -> int:
    """Of ``mambaout_mm::selective_scan``, given a trace's values: by the rule of products."""
    elements, states, skip = _scan_sizes(inputs)
    return (4 * states + 1 + skip) * elements


def _scan_sizes(inputs: list[Any]) -> tuple[int, int, int]:
    """Elements of u (b * G * D * L), states of each, and whether there is a skip connection."""
    u, _, A, _, _, D, *_ = inputs
    return math.prod(get_shape(u)), get_shape(A)[1], int(get_shape(D) is not None)


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of ``aten::scaled_dot_product_attention``, given a trace's values."""
    q, k, v = (get_shape(x) for x in inputs[:3])  # (..., L, E), (..., S, E), (..., S, Ev)
    return math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]


# For FlopAnalyzer.set_op_handle
OP_HANDLES = {SCAN: scan_flops, 'aten::scaled_dot_product_attention': attention_flops}
