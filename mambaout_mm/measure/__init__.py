"""Measuring any network: multiply-accumulates, time and bytes."""
