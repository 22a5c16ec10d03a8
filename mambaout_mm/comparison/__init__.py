"""What a model costs, and how models compare."""

from .api import compare
from .complexity import Complexity, model_complexity

__all__ = ['Complexity', 'compare', 'model_complexity']
