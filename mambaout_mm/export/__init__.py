"""Whole detectors and segmentors as ONNX files, and such a file in place of a model."""
