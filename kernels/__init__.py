"""Prompt to signals, fast."""
