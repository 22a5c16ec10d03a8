"""Operators of ``mmcv._ext`` on torchvision's operators and plain PyTorch.

Every function has the name, the arguments and the outputs of the compiled operator that the
wrappers in ``mmcv/ops/*.py`` call; those wrappers are what a model uses. Results go into the
tensors given for them, without a graph for autograd. Where the compiled operator adds to a
gradient (the gradients of inputs, weights and biases), so does the function here; the wrappers
hand over zeros. ``carafe_naive`` has no backward pass on a CPU: mmcv's wrapper asserts a GPU.

All take CPU and CUDA tensors of float64, float32, float16 and bfloat16. The two half types are
computed in float32 and rounded once, into the result: torchvision lacks bfloat16 on the CPU,
and sums of many half-precision terms lose digits.

On CUDA the backward passes of RoIAlign and of the deformable convolutions sum in no fixed order,
as mmcv's do; a version of torchvision that checks for it raises an error for them under
``torch.use_deterministic_algorithms(True)``.
"""

from .carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from .deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .environment_report import get_compiler_version, get_compiling_cuda_version
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .masked_conv import masked_col2im_forward, masked_im2col_forward
from .nms import nms, softnms
from .psa_mask import psamask_backward, psamask_forward
from .roi_align import roi_align_backward, roi_align_forward

__all__ = [
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]
