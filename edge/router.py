"""One choice: eligible arms → scores → probabilities → draw. No I/O, no clock, no memory."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edge.errors import EdgeError, invalid
from learners.bundle import Bundle
from learners.exploration import draw, unit_interval
from learners.records import Context

Mode = Literal["policy", "fallback", "retry"]


class NoArmError(EdgeError):
    """No arm may be served: too many are excluded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice and all that is needed to learn from it; but for ``edge_id``, the wire's line.

    ``distribution`` stands in the order of ``eligible``; ``propensity`` is the probability with
    which ``action`` was served.
    """

    decision_id: str
    policy: str
    version: int
    serial: int
    digest: str
    at: datetime
    context: Context
    eligible: tuple[str, ...]
    distribution: tuple[float, ...]
    action: str
    propensity: float
    mode: Mode
    retry_of: str | None = None
    session_id: str | None = None
    episode_id: str | None = None


def decide(
    bundle: Bundle,
    context: Context,
    *,
    decision_id: str,
    at: datetime,
    eligible: Sequence[str],
    retry_of: str | None = None,
    session_id: str | None = None,
    episode_id: str | None = None,
) -> Decision:
    """Choose an arm; the id and the bundle decide the draw, so equal calls give equal answers.

    An expired bundle vouches for its fallback arm only, which is then served with probability 1.

    Raises:
        ContextError: The context does not fit the bundle's schema.
        SpecError: A score is not finite.
        NoArmError: ``eligible`` is empty, or lacks the fallback arm of an expired bundle.
    """
    if not eligible:
        raise NoArmError(f"no arm of policy {bundle.policy!r} is left: exclude fewer")
    mode: Mode = "policy" if retry_of is None else "retry"
    if at >= bundle.expires_at:
        mode, distribution, chosen = "fallback", *_fallback(bundle, eligible)
    else:
        spread = bundle.distribution(context, eligible)
        arm = draw(spread, unit_interval(decision_id, bundle.digest))
        index, every = bundle.index, spread.tolist()
        distribution = tuple([every[index[name]] for name in eligible])
        chosen = eligible.index(bundle.arms[arm].name)
    return Decision(
        decision_id=decision_id,
        policy=bundle.policy,
        version=bundle.version,
        serial=bundle.serial,
        digest=bundle.digest,
        at=at,
        context=context,
        eligible=tuple(eligible),
        distribution=distribution,
        action=eligible[chosen],
        propensity=distribution[chosen],
        mode=mode,
        retry_of=retry_of,
        session_id=session_id,
        episode_id=episode_id,
    )


def _fallback(bundle: Bundle, eligible: Sequence[str]) -> tuple[tuple[float, ...], int]:
    if bundle.fallback_arm not in eligible:
        raise NoArmError(
            f"the bundle of {bundle.policy!r} expired at {bundle.expires_at.isoformat()}, so only "
            f"its fallback arm {bundle.fallback_arm!r} may be served, and it is not eligible"
        )
    chosen = eligible.index(bundle.fallback_arm)
    return tuple([1.0 if i == chosen else 0.0 for i in range(len(eligible))]), chosen


def eligible_arms(
    bundle: Bundle,
    *,
    actions: Collection[str] | None = None,
    excluded: Collection[str] = (),
) -> tuple[str, ...]:
    """The arms that may be chosen, in the bundle's order, so that no order of a request matters.

    Raises:
        ProblemError: A name is no arm of the policy, or no arm is left (422).
    """
    for field, names in (("actions", actions or ()), ("excluded_actions", excluded)):
        for name in names:
            if name not in bundle.index:
                raise invalid(field, name, f"use names of {list(bundle.index)}")
    found = tuple(
        name
        for name in bundle.index
        if (actions is None or name in actions) and name not in excluded
    )
    if not found:
        field = "actions" if actions is not None and not actions else "excluded_actions"
        value = list(actions or ()) if field == "actions" else list(excluded)
        raise invalid(field, value, f"leave at least one arm of {list(bundle.index)}")
    return found
