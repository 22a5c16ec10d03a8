"""The user's own trainings: what MMEngine logged, how recipes differ, what the scores say."""

from .results import run_records

__all__ = ['run_records']
