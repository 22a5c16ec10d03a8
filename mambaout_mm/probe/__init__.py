"""How far a backbone sees: curves to be followed over a known distance, behind `tools/probe.py`."""
