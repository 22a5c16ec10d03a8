"""What PyTorch came to have after 2.1, under the names that it has now.

Each name is PyTorch's own where PyTorch has it. What has no equal in older versions is said beside
it: in one place, so that nothing else asks for a version.
"""

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch import library as dispatcher
from torch.nn.modules import module as modules

__all__ = [
    'EXPORTS_PLAIN_OPERATORS',
    'FUSED_ON_CPU',
    'GELU',
    'OutOfMemoryError',
    'RMSNorm',
    'before_loading',
    'custom_op',
    'get_autocast_dtype',
    'has_any_global_hook',
    'is_autocast_enabled',
    'is_compiling',
    'is_exporting',
]

# 2.5: before, the only one was CUDA's.
OutOfMemoryError = (torch if hasattr(torch, 'OutOfMemoryError') else torch.cuda).OutOfMemoryError

# 2.4: before, torch.optim's fused steps were for CUDA alone.
FUSED_ON_CPU = torch.__version__ >= '2.4'

# 2.7: before, an export cannot be told from torch.compile, and its graph has this package's
# operators in place of plain ones.
EXPORTS_PLAIN_OPERATORS = torch.__version__ >= '2.7'
is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def before_loading(module: nn.Module, hook: Callable[..., None]) -> None:
    """``module.register_load_state_dict_pre_hook(hook)``, whose name was private before 2.5."""
    if hasattr(module, 'register_load_state_dict_pre_hook'):
        module.register_load_state_dict_pre_hook(hook)
    else:
        module._register_load_state_dict_pre_hook(hook, with_module=True)


if hasattr(modules, '_has_any_global_hook'):
    has_any_global_hook = modules._has_any_global_hook
else:

    def has_any_global_hook() -> bool:
        """Whether a hook is registered for every module."""
        return bool(
            modules._global_backward_pre_hooks
            or modules._global_backward_hooks
            or modules._global_forward_pre_hooks
            or modules._global_forward_hooks
        )


if hasattr(torch.compiler, 'is_compiling'):
    is_compiling = torch.compiler.is_compiling
else:  # 2.1
    from torch._utils import is_compiling


if hasattr(torch, 'get_autocast_dtype'):
    is_autocast_enabled, get_autocast_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
else:  # before 2.4 each device had its own function

    def is_autocast_enabled(device: str) -> bool:
        """Whether autocast is on for a type of device."""
        return torch.is_autocast_cpu_enabled() if device == 'cpu' else torch.is_autocast_enabled()

    def get_autocast_dtype(device: str) -> torch.dtype:
        """The dtype of autocast on a type of device."""
        return torch.get_autocast_cpu_dtype() if device == 'cpu' else torch.get_autocast_gpu_dtype()


if torch.__version__ >= '2.4':
    GELU = nn.GELU
else:

    class GELU(nn.GELU):
        """``nn.GELU``, whose backward pass reads gradients in the layout of its input.

        PyTorch 2.1 on a CPU reads any other as if it were that one, and returns other memory's
        content; 2.4 does not. Versions between were not tried.
        """

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if y.requires_grad and x.device.type == 'cpu':
                y.register_hook(lambda grad: torch.empty_like(x, dtype=grad.dtype).copy_(grad))
            return y


if hasattr(nn, 'RMSNorm'):
    RMSNorm = nn.RMSNorm
else:  # before 2.4

    class RMSNorm(nn.Module):
        """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (arXiv 1910.07467).

        Args:
            dim (int): Of the last dimension.
            eps (float): Epsilon.
        """

        def __init__(self, dim: int, eps: float) -> None:
            super().__init__()
            self.normalized_shape, self.eps = (dim,), eps
            self.weight = nn.Parameter(torch.ones(dim))

        def forward(self, x: Tensor) -> Tensor:
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            scale = wide.square().mean(-1, keepdim=True).add(self.eps).rsqrt()
            return (wide * scale * self.weight).to(x.dtype)


if hasattr(dispatcher, 'custom_op'):
    custom_op = dispatcher.custom_op
else:  # before 2.4

    def custom_op(
        name: str, function: Callable | None = None, /, *, mutates_args: tuple = ()
    ) -> Any:
        """PyTorch's ``custom_op`` for functions that change none of their arguments."""
        if function is None:
            return lambda function: custom_op(name, function, mutates_args=mutates_args)
        return _Operator(name, function)


class _Operator:
    """What PyTorch's ``custom_op`` returns, as far as it is used here."""

    def __init__(self, name: str, function: Callable) -> None:
        self.namespace, self.short_name = name.split('::')
        self.definitions = vars(dispatcher)['Library'](self.namespace, 'FRAGMENT')
        self.definitions.define(self.short_name + _schema(function))
        self.definitions.impl(self.short_name, function, 'CompositeExplicitAutograd')

    def register_fake(self, function: Callable) -> None:
        self.definitions.impl(self.short_name, function, 'Meta')

    def register_autograd(self, backward: Callable, *, setup_context: Callable) -> None:
        operator = getattr(getattr(torch.ops, self.namespace), self.short_name).default

        def forward(*inputs: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*inputs)

        members = dict(forward=forward, backward=backward, setup_context=setup_context)
        function = type(
            self.short_name,
            (torch.autograd.Function,),
            {key: staticmethod(member) for key, member in members.items()},
        )
        self.definitions.impl(self.short_name, function.apply, 'Autograd')


def _schema(function: Callable) -> str:
    """A function's arguments and results in the words of PyTorch's dispatcher."""
    signature = inspect.signature(function)
    arguments = (f'{_type(p.annotation)} {p.name}' for p in signature.parameters.values())
    results = map(_type, get_args(signature.return_annotation))
    return f'({", ".join(arguments)}) -> ({", ".join(results)})'


def _type(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):  # with None
        return f'{_type(get_args(annotation)[0])}?'
    return 'Tensor' if annotation is Tensor else annotation.__name__
