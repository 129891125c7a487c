"""A request's own weights of the reward's parts: how much cost, say, is to count for it.

A preference is a factor on the policy's own weight: 1 as the policy has it, 0 not at all, 2 twice
as much. It stands in the decision's context as ``preference.<part>``, so that what is logged says
under which preference an arm was chosen. It moves the choice along the frontier of a policy that
predicts the parts apart (Tryage, RouteLLM's threshold); any other policy takes no notice.

What a reward's gates decided is a part too, but none that may be weighed: a request may say what it
pays for, and not that a gate is open.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from learners.errors import ContextError
from learners.records import Context
from learners.rewards import GATE_PART
from learners.scorers.base import Scorer
from learners.scorers.mixed import Mixed

PREFIX = "preference."
MAX_FACTOR = 1_000.0
_UNITS = ("_usd", "_s", "_j")
"""What may be left off a part's name: ``cost`` is ``cost_usd``."""


def in_context(preference: Mapping[str, float]) -> dict[str, float]:
    """The fields of a context that hold a preference."""
    return {f"{PREFIX}{part}": factor for part, factor in preference.items()}


def mixes(
    contexts: Sequence[Context], scorer: Scorer, *, strict: bool = False
) -> NDArray[np.float64] | None:
    """Each context's weights of the scorer's parts ``(n, m)``; None where nobody asks for any.

    Args:
        contexts: n contexts.
        scorer: only one that predicts the parts apart has any use for a preference.
        strict: refuse what the scorer cannot follow. A log may hold what an earlier policy took no
            notice of, and this one takes none either.

    Raises:
        ContextError: With ``strict``, a preference is no factor, or names no part, or one twice.
    """
    if not isinstance(scorer, Mixed):
        return None
    asked = [(row, _asked(context)) for row, context in enumerate(contexts)]
    asked = [(row, factors) for row, factors in asked if factors]
    if not asked:
        return None
    found = np.tile(scorer.mix, (len(contexts), 1))
    for row, factors in asked:
        try:
            weighed = _weighed(factors, scorer.parts)
        except ContextError:
            if strict:
                raise
            continue
        for place, factor in weighed.items():
            found[row, place] *= factor
    return found


def _asked(context: Context) -> dict[str, object]:
    return {
        name.removeprefix(PREFIX): value
        for name, value in context.items()
        if name.startswith(PREFIX)
    }


def _weighed(factors: Mapping[str, object], parts: tuple[str, ...]) -> dict[int, float]:
    """The factor of each part that is named."""
    found: dict[int, float] = {}
    for name, factor in factors.items():
        place = _place(name, parts)
        if place in found:
            raise ContextError(
                f"context.{PREFIX}{name} names {parts[place]} again: give each part one factor"
            )
        found[place] = check_factor(name, factor)
    return found


def _place(name: str, parts: tuple[str, ...]) -> int:
    known = [part for part in parts if part != GATE_PART]
    for part in (name, *(f"{name}{unit}" for unit in _UNITS)):
        if part in known:
            return parts.index(part)
    raise ContextError(
        f"context.{PREFIX}{name} is no part of the reward: name one of {', '.join(known)}"
    )


def check_factor(name: str, factor: object) -> float:
    """The factor, if it is one.

    Raises:
        ContextError: It is no number from 0 to :data:`MAX_FACTOR`.
    """
    number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not number or not math.isfinite(float(factor)) or not 0 <= float(factor) <= MAX_FACTOR:  # type: ignore[arg-type]
        raise ContextError(
            f"context.{PREFIX}{name} is {factor!r:.80}: give a number from 0 to {MAX_FACTOR:g}"
        )
    return float(factor)  # type: ignore[arg-type]
