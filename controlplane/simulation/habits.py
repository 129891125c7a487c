"""How simulated users behave: whether, when and how often they say what they think."""

import random
from dataclasses import dataclass

from controlplane.simulation.contract import WorldError, check

MAX_DELAY_S = 86_400.0
_REPEAT_WITHIN_S = 0.5
_REPEAT_KEYED_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares of all requests, and delays in seconds (fewest and most, drawn evenly).

    Attributes:
        stream_share: are streamed.
        silent_share: are never graded.
        early_share: are graded at once, mostly before the edge has reported the decision.
        late_share: are graded after ``late_s``, which should exceed the metric's wait.
        repeat_share: are graded twice.
        wait_s: the delay of all others.
        drain_s: how long the feedback that is due may still be sent after the last request.
    """

    stream_share: float = 0.15
    silent_share: float = 0.10
    early_share: float = 0.03
    late_share: float = 0.02
    repeat_share: float = 0.05
    wait_s: tuple[float, float] = (0.2, 3.0)
    late_s: tuple[float, float] = (30.0, 60.0)
    drain_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse shares and delays that can not be."""
        for name in ("stream_share", "silent_share", "early_share", "late_share", "repeat_share"):
            check(f"habits: {name}", getattr(self, name), 0.0, 1.0)
        if self.silent_share + self.early_share + self.late_share > 1.0:
            raise WorldError("habits: silent, early and late shares add up to more than 1")
        for name in ("wait_s", "late_s"):
            fewest, most = getattr(self, name)
            check(f"habits: {name}[0]", fewest, 0.0, MAX_DELAY_S)
            check(f"habits: {name}[1]", most, fewest, MAX_DELAY_S)
        check("habits: drain_s", self.drain_s, 0.0, MAX_DELAY_S)


@dataclass(frozen=True, slots=True)
class Post:
    """One sending of a grade: when after the answer, and whether with an idempotency key."""

    after_s: float
    keyed: bool = True


def posts(habits: Habits, rng: random.Random) -> tuple[Post, ...]:
    """When one request's grade is sent: never, once, or twice."""
    kind, again = rng.random(), rng.random()
    kind -= habits.silent_share
    if kind < 0:
        return ()
    first = Post(_delay_s(habits, kind, rng))
    if again >= habits.repeat_share:
        return (first,)
    after_s = first.after_s + rng.uniform(0.0, _REPEAT_WITHIN_S)
    return first, Post(after_s, keyed=rng.random() < _REPEAT_KEYED_SHARE)


def _delay_s(habits: Habits, kind: float, rng: random.Random) -> float:
    if kind < habits.early_share:
        return 0.0
    late = kind < habits.early_share + habits.late_share
    return rng.uniform(*(habits.late_s if late else habits.wait_s))
