"""One choice: eligible arms → scores → probabilities → draw. No I/O, no clock, no memory."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError, invalid
from learners.bundle import Bundle, Reading
from learners.errors import LearnersError
from learners.exploration import draw, unit_interval
from learners.lineup import units_of
from learners.records import Context

Mode = Literal["policy", "fallback", "retry", "shadow"]


class NoArmError(EdgeError):
    """No arm may be served: too many are excluded."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a version would have chosen that was asked and did not decide.

    ``propensity`` is that of its own draw, ``served`` what it gives to the arm that was served.
    """

    version: int
    action: str
    propensity: float
    served: float


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice and all that is needed to learn from it; but for ``edge_id``, the wire's line.

    ``distribution`` stands in the order of ``eligible``; ``propensity`` is the probability with
    which ``action`` was served. ``version`` is the one that decided: the champion, or what the
    ``split`` gave this ``unit`` (a hash) as its ``variant``. In the mode ``shadow`` nobody was
    served: ``retry_of`` names the decision that was, see :func:`counterfactual`.
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
    split: str | None = None
    variant: str | None = None
    unit: str | None = None
    shadows: tuple[Shadow, ...] = ()


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
    user: str | None = None,
    request_id: str | None = None,
) -> Decision:
    """Choose an arm; the id and the bundle decide the draw, so equal calls give equal answers.

    An expired bundle vouches for its fallback arm only, which is then served with probability 1.
    Where a bundle has splits, the request's units decide which version chooses; a retry stays where
    its first try was, its ``request_id``. A challenger that cannot read the context leaves the
    choice to the champion (see ``version``); a shadow is left out. Of ``user`` only a hash stays.

    Raises:
        LearnersError: The context does not fit the bundle's schema, or a score is not finite.
        NoArmError: ``eligible`` is empty, or lacks the fallback arm of an expired bundle.
    """
    if not eligible:
        raise NoArmError(f"no arm of policy {bundle.policy!r} is left: exclude fewer")
    mode: Mode = "policy" if retry_of is None else "retry"
    version, belongs = bundle.version, None
    shadows: tuple[Shadow, ...] = ()
    if at >= bundle.expires_at:
        mode, distribution, chosen = "fallback", *_fallback(bundle, eligible)
    else:
        belongs = bundle.lineup.assign(units_of(request_id or decision_id, session_id, user))
        reading = Reading(bundle, context, eligible)
        version, spread = _spread(bundle, reading, belongs.version if belongs else None)
        arm = draw(spread, unit_interval(decision_id, bundle.digest))
        distribution = _over(bundle, eligible, spread)
        chosen = eligible.index(bundle.arms[arm].name)
        shadows = _shadows(bundle, reading, decision_id, arm)
    return Decision(
        decision_id=decision_id,
        policy=bundle.policy,
        version=version,
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
        split=belongs.split if belongs else None,
        variant=belongs.variant if belongs else None,
        unit=belongs.unit if belongs else None,
        shadows=shadows,
    )


def _spread(
    bundle: Bundle, reading: Reading, wanted: int | None
) -> tuple[int, NDArray[np.float64]]:
    """Who decides, and its distribution; the champion where a challenger cannot."""
    if wanted is not None and wanted != bundle.version:
        try:
            return wanted, reading.distribution(wanted)
        except LearnersError:
            pass
    return bundle.version, reading.distribution()


def _over(
    bundle: Bundle, eligible: Sequence[str], spread: NDArray[np.float64]
) -> tuple[float, ...]:
    index, every = bundle.index, spread.tolist()
    return tuple([every[index[name]] for name in eligible])


def _shadows(bundle: Bundle, reading: Reading, decision_id: str, served: int) -> tuple[Shadow, ...]:
    """What the shadows would have done with the same context, each by a draw of its own."""
    found = []
    for version in bundle.lineup.shadows:
        try:
            spread = reading.distribution(version)
        except LearnersError:
            continue
        arm = draw(spread, unit_interval(decision_id, bundle.digest, str(version)))
        every = spread.tolist()
        found.append(Shadow(version, bundle.arms[arm].name, every[arm], every[served]))
    return tuple(found)


def counterfactual(
    bundle: Bundle, served: Decision, shadow: Shadow, *, decision_id: str, at: datetime
) -> Decision:
    """A shadow's choice on a request that another arm has served, as a decision of its own.

    It is asked for only where the shadow drew another arm than the served one, so its distribution
    is the shadow's given that: over the other arms, each divided by what is left of 1. It belongs
    to no session, episode or split, in none of which it took part.

    Raises:
        ContextError: The shadow cannot read the context.
    """
    spread = bundle.distribution(served.context, served.eligible, version=shadow.version)
    others = tuple(name for name in served.eligible if name != served.action)
    chances = [float(spread[bundle.index[name]]) for name in others]
    whole = math.fsum(chances)
    distribution = tuple([chance / whole for chance in chances])
    return Decision(
        decision_id=decision_id,
        policy=bundle.policy,
        version=shadow.version,
        serial=bundle.serial,
        digest=bundle.digest,
        at=at,
        context=served.context,
        eligible=others,
        distribution=distribution,
        action=shadow.action,
        propensity=distribution[others.index(shadow.action)],
        mode="shadow",
        retry_of=served.decision_id,
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
