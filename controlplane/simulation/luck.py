"""Luck without state: numbers that hang on a text alone, so every answer can be had again."""

import hashlib
from statistics import NormalDist

_NORMAL = NormalDist()


def luck(text: str) -> tuple[float, float, float, float]:
    """Four numbers strictly between 0 and 1, spread evenly, from the text's SHA-256."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    a, b, c, d = (
        ((int.from_bytes(digest[at : at + 8], "big") >> 12) + 0.5) / 2**52 for at in (0, 8, 16, 24)
    )
    return a, b, c, d


def normal(uniform: float) -> float:
    """The standard normal quantile: an even number becomes a normal one."""
    return _NORMAL.inv_cdf(uniform)


def unit(value: float) -> float:
    """The value kept within 0 and 1."""
    return min(1.0, max(0.0, value))
