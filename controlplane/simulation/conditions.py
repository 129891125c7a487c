"""How an arm fares at a moment: what the drifts in force have made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.simulation.contract import (
    EVERY_DOMAIN,
    Drift,
    Moment,
    WorldError,
    known,
)

MAX_DRIFTS = 1_000
_STATUSES = (429, 503, 503, 500)
"""Of four failures, one is a refusal to go on at this rate, two an overload, one a fault."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The sum of an arm's drifts; the failure rate is None while it is the arm's own."""

    skill_shift: Mapping[str, float] = field(default_factory=dict)
    failure_rate: float | None = None
    latency_factor: float = 1.0

    def shift_in(self, domain: str) -> float:
        """What is added to the arm's usual score in a domain."""
        return self.skill_shift.get(domain, self.skill_shift.get(EVERY_DOMAIN, 0.0))


USUAL = Condition()


def condition_of(drifts: tuple[Drift, ...], arm: str, t: Moment) -> Condition:
    """How the arm fares at a moment; a shift for all domains replaces those for one before it."""
    condition = USUAL
    for drift in drifts:
        if drift.arm == arm and drift.begun(t):
            before = {} if EVERY_DOMAIN in drift.skill_shift else condition.skill_shift
            rate, factor = drift.failure_rate, drift.latency_factor
            condition = Condition(
                skill_shift={**before, **drift.skill_shift},
                failure_rate=condition.failure_rate if rate is None else rate,
                latency_factor=condition.latency_factor if factor is None else factor,
            )
    return condition


def failure_of(uniform: float, failure_rate: float) -> int | None:
    """The HTTP status of a failure, or None when the arm answers."""
    if uniform >= failure_rate:
        return None
    return _STATUSES[int(len(_STATUSES) * uniform / failure_rate)]


def check_drifts(
    drifts: tuple[Drift, ...], arms: tuple[str, ...], domains: tuple[str, ...]
) -> None:
    """Refuse drifts of what a world does not hold.

    Raises:
        WorldError: There are too many, or one names an unknown arm or domain.
    """
    if len(drifts) > MAX_DRIFTS:
        raise WorldError(f"{len(drifts)} drifts: at most {MAX_DRIFTS} are allowed")
    by_name = dict.fromkeys(arms)
    for drift in drifts:
        known(by_name, drift.arm)
        unknown = set(drift.skill_shift) - set(domains) - {EVERY_DOMAIN}
        if unknown:
            raise WorldError(
                f"drift of {drift.arm}: no domain {sorted(unknown)[:20]}: there are {list(domains)}"
            )
