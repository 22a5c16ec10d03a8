"""A first run without COCO: an embedded data set, and what `--demo` changes in a config."""

from .report import report
from .settings import apply_demo

__all__ = ['apply_demo', 'report']
