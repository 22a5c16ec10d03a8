"""What a model costs, and how models compare."""

from typing import Any

from mambaout_mm.measure.complexity import Complexity, model_complexity

__all__ = ['Complexity', 'compare', 'model_complexity']


def __getattr__(name: str) -> Any:
    # Counting alone needs no pandas, which is in an extra.
    if name != 'compare':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .api import compare

    return compare
