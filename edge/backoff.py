"""Waiting longer after each failure, with jitter, so that edges do not come back all at once."""

import random

MAX_RETRY_AFTER_S = 300.0
_MAX_DOUBLINGS = 16


class Backoff:
    """Delays that double from ``low_s`` up to ``high_s``; each is drawn from its upper half."""

    def __init__(self, low_s: float, high_s: float) -> None:
        """Begin at the lowest delay."""
        self._low_s = low_s
        self._high_s = high_s
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        longest = min(self._high_s, self._low_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        return longest * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again at the lowest delay."""
        self._failures = 0


def read_retry_after(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``; its form with a date is not read."""
    if text is None or not (text.isascii() and text.isdecimal()):
        return None
    return min(float(text), MAX_RETRY_AFTER_S)
