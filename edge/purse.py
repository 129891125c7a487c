"""What may be spent in an hour: bounded by reserving before, and by what it cost after."""

from collections import deque

MINUTES = 60
_ROUNDING = 1e-12


class Purse:
    """Spending of the last hour, minute by minute, and what is reserved. Times are in seconds.

    What was spent is forgotten a minute late rather than early, so no hour holds more than its
    budget, but for what a request cost beyond its reservation.
    """

    def __init__(self) -> None:
        """Nothing is spent."""
        self._minutes: deque[tuple[int, float]] = deque()
        self._reserved = 0.0
        self._held = 0

    def reserve(self, usd: float, budget_usd: float, now: float) -> bool:
        """Hold this much back, if the budget of an hour has room for it."""
        if self.spent(now) + self._reserved + usd > budget_usd + _ROUNDING:
            return False
        self._reserved += usd
        self._held += 1
        return True

    def settle(self, reserved: float, spent: float, now: float) -> None:
        """What was reserved has cost so much."""
        self._held -= 1
        # Without anything held, no rounding is left either.
        self._reserved = max(0.0, self._reserved - reserved) if self._held else 0.0
        minute = int(now // 60)
        if self._minutes and self._minutes[-1][0] == minute:
            spent += self._minutes.pop()[1]
        if spent > 0:
            self._minutes.append((minute, spent))

    def spent(self, now: float) -> float:
        """Of the last hour."""
        while self._minutes and self._minutes[0][0] < int(now // 60) - MINUTES:
            self._minutes.popleft()
        return sum(usd for _, usd in self._minutes)
