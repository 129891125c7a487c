"""Attention with padding and a sliding window: an oracle, one GPU kernel, and its launcher."""
