"""The user's own trainings: what MMEngine logged, how recipes differ, what the scores say."""
