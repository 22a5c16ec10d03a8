"""The operators that cost the time, each beside a plain reference that it agrees with."""
