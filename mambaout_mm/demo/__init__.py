"""A first run without COCO: an embedded data set, and what `--demo` changes in a config."""

from .display import output_into
from .report import announce, report
from .settings import apply_demo

__all__ = ['announce', 'apply_demo', 'output_into', 'report']
