"""The report of a comparison: one page of HTML that needs no network, and its tables."""

from .page import render

__all__ = ['render']
