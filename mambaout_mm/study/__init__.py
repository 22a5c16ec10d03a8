"""One's own answer: candidates trained alike with several seeds, behind `tools/study.py`."""
