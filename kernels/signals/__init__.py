"""Prompt → signals: what can be read off a prompt, tier by tier."""
