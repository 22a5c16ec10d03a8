"""The operators that cost most of the time, each with a plain reference that it agrees with."""
