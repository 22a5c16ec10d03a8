"""What MMEngine's counter of FLOPs does not know: the selective scan, and fused attention.

A scan counts 9 * b * L * G * D * N, and b * L * G * D more with a skip connection D
(``flops_selective_scan_fn``, MzeroMiko/VMamba ``csms6s.py`` at 2ed52ea; state-spaces/mamba issue
#110). Attention counts its two matrix products, as MMEngine counts them where they are not fused.
"""

import math
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape


def scan_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of ``mambaout_mm::selective_scan``, given a trace's values."""
    u, _, A, _, _, D, *_ = inputs
    elements = math.prod(get_shape(u))  # b * G * D * L
    skip = 0 if get_shape(D) is None else 1
    return (9 * get_shape(A)[1] + skip) * elements


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of ``aten::scaled_dot_product_attention``, given a trace's values."""
    q, k, v = (get_shape(x) for x in inputs[:3])  # (..., L, E), (..., S, E), (..., S, Ev)
    return math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]


def install() -> None:
    """Teach every ``FlopAnalyzer``, ``get_model_complexity_info`` and mmdet's ``get_flops.py``."""
    known = complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS
    known.setdefault('mambaout_mm::selective_scan', scan_flops)
    known.setdefault('aten::scaled_dot_product_attention', attention_flops)
