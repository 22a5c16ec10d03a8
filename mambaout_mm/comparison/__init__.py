"""What a model costs, and how models compare."""

from .complexity import Complexity, model_complexity

__all__ = ['Complexity', 'model_complexity']
