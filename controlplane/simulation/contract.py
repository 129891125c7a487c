"""What a simulated world is: a pure function of query, arm and moment.

The same seed, query, arm and moment give the same answer in every process, so what the other arms
would have answered can always be shown beside what was served.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

EVERY_DOMAIN = "*"
"""Stands for all domains where a drift names some, and for that of a table without domains."""
OK = 200
MAX_LATENCY_FACTOR = 1_000.0
_T = TypeVar("_T")


class WorldError(ValueError):
    """A simulated world, or what was asked of it, does not make sense."""


class UnknownQueryError(WorldError):
    """The prompt's key is not a query of the table: end the prompt with ``[query <query_id>]``."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request comes: how many came before it, and seconds since the start."""

    request: int = 0
    elapsed_s: float = 0.0


START = Moment()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an arm does with a query.

    Attributes:
        score: in [0, 1]; 0 when the arm failed.
        first_token_s: the part of ``latency_s`` before the first text.
        status: 200, or the HTTP status of the failure.
        cut: whether ``max_tokens`` ended the text early.
    """

    score: float
    cost_usd: float
    input_tokens: int
    output_tokens: int
    latency_s: float
    first_token_s: float
    status: int = OK
    cut: bool = False

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of a text."""
        return self.status != OK


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt, with what the world knows about it."""

    key: str
    domain: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Drift:
    """A lasting change of an arm, from a request or from a second on; give exactly one of the two.

    What is None or left out stays as it was. Of two drifts in force, the later of the list wins.

    Attributes:
        skill_shift: per domain, or for all with ``"*"``: what is added to the arm's usual score.
        failure_rate: in place of the arm's own.
        latency_factor: how many times slower than usual.
    """

    arm: str
    at_request: int | None = None
    at_s: float | None = None
    skill_shift: Mapping[str, float] = field(default_factory=dict)
    failure_rate: float | None = None
    latency_factor: float | None = None

    def __post_init__(self) -> None:
        """Refuse a drift without a start, or with numbers out of range."""
        if (self.at_request is None) == (self.at_s is None):
            raise WorldError(f"drift of {self.arm}: give at_request or at_s, one of the two")
        for name, start in (("at_request", self.at_request), ("at_s", self.at_s)):
            if start is not None:
                check(f"drift of {self.arm}: {name}", start, 0.0, 1e12)
        for domain, shift in self.skill_shift.items():
            check(f"drift of {self.arm}: skill_shift in {domain}", shift, -1.0, 1.0)
        if self.failure_rate is not None:
            check(f"drift of {self.arm}: failure_rate", self.failure_rate, 0.0, 1.0)
        if self.latency_factor is not None:
            factor = self.latency_factor
            check(f"drift of {self.arm}: latency_factor", factor, 0.0, MAX_LATENCY_FACTOR)

    def begun(self, t: Moment) -> bool:
        """Whether it is in force."""
        if self.at_request is not None:
            return t.request >= self.at_request
        return self.at_s is not None and t.elapsed_s >= self.at_s


class AnyWorld(Protocol):
    """What the pool serves and the traffic knows the truth of."""

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms' names, in order."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the queries."""

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """What changes on the way; later ones win."""

    def prompts(self, count: int, rng: np.random.Generator) -> Iterator[Query]:
        """Draw queries."""

    def answer(
        self,
        query_key: str,
        arm: str,
        prompt: str,
        *,
        t: Moment = START,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the arm answers to the prompt at that moment.

        Raises:
            UnknownQueryError: The world answers listed queries only, and has no such key.
            WorldError: There is no such arm.
        """

    def with_drifts(self, drifts: tuple[Drift, ...]) -> "AnyWorld":
        """The same world with these drifts in place of its own.

        Raises:
            WorldError: A drift names an arm or a domain that is not there.
        """

    def card(self, arm: str) -> dict[str, object]:
        """What is known of an arm, as plain values."""


def check(what: str, value: float, lower: float, upper: float) -> None:
    """Refuse a number out of range, NaN included.

    Raises:
        WorldError: It is.
    """
    if not lower <= value <= upper:
        raise WorldError(f"{what} is {value}: give a number from {lower:g} to {upper:g}")


def known(by_name: Mapping[str, _T], arm: str) -> _T:
    """The entry of an arm.

    Raises:
        WorldError: There is none.
    """
    if arm not in by_name:
        raise WorldError(f"no arm {arm[:200]!r}: there are {list(by_name)[:20]}")
    return by_name[arm]


def check_names(names: tuple[str, ...]) -> None:
    """Refuse a pool without arms, or with a name that stands twice.

    Raises:
        WorldError: It is one.
    """
    if not names or len(set(names)) != len(names):
        raise WorldError(f"arms {list(names)} are none or repeat: name each arm once")
