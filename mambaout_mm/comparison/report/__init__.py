"""The report of a comparison: one page of HTML that needs no network, and its tables."""

from .page import write_report

__all__ = ['write_report']
