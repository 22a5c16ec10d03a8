"""Whole detectors and segmentors as ONNX files, behind `tools/export.py`."""
