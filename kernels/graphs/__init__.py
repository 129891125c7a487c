"""Encoder graphs, built from weights alone: ONNX in four variants, int8, and their oracle."""
