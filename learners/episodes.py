"""Episodes of an agent: what its app sends with each turn, and a log's rows unrolled into steps.

*What the app sends.* One decision a turn, all with the same ``episode_id``, and in ``context`` the
fields of :func:`episode_schema`: ``turn`` (0 for the first), ``failures`` so far, ``spent_usd`` so
far, the task's ``budget_usd``, its ``domain`` and ``last_arm``, the arm that served the turn before
(another arm finds no cached prefix, so a switch costs). The app says how the episode ended once,
as feedback on the episode, and each of its decisions gets that value.

*How the reward is read.* What the edge measures of every call (:data:`MEASURED`: cost, latency …)
is counted at each step. Any other part of the reward is the episode's outcome: it stands with every
step, and is counted once, at the last; so is the reward's offset. ``terminal`` names the parts of
the outcome where that is not right. Where the parts cannot be told, the reward is all outcome.
A row without an episode is an episode of one step, and its reward is the row's. The rows of one
episode that come in two batches are two episodes of the same outcome.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.interactions import Interactions
from learners.schedule import Moments

TURN, FAILURES, SPENT, BUDGET = "turn", "failures", "spent_usd", "budget_usd"
DOMAIN, LAST_ARM = "domain", "last_arm"
MEASURED = (
    "latency_s",
    "ttft_s",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "energy_j",
    "error",
)
"""The parts that the edge measures of each call, which are counted at each step."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def episode_schema(
    arms: Sequence[str],
    domains: Sequence[str] = (),
    *,
    max_turns: int = 20,
    budget_usd: float = 1.0,
    more: Sequence[Feature] = (),
) -> Schema:
    """The features of a turn, scaled by the longest episode and the usual budget.

    Numbers are clipped at ten times their scale, so give the order of magnitude. The means are 0:
    a context without a budget has none left, so a budget mask lets it only the cheapest arm.
    """
    return Schema(
        (
            Feature(TURN, "number", scale=float(max_turns)),
            Feature(FAILURES, "number", scale=float(max_turns)),
            Feature(SPENT, "number", scale=budget_usd),
            Feature(BUDGET, "number", scale=budget_usd),
            Feature(DOMAIN, "category", values=tuple(domains)),
            Feature(LAST_ARM, "category", values=tuple(arms)),
            *more,
        )
    )


def columns_of(schema: Schema, name: str) -> slice:
    """Where a feature's columns are; an empty slice if there is no such feature."""
    start = 1
    for feature in schema.features:
        if feature.name == name:
            return slice(start, start + feature.width)
        start += feature.width
    return slice(0, 0)


def number_of(schema: Schema, name: str, x: Floats) -> Floats | None:
    """A number's values ``(n,)`` as the app sent them; None if the schema has no such number."""
    for feature in schema.features:
        if feature.name == name and feature.kind == "number":
            return np.asarray(x[:, columns_of(schema, name).start] * feature.scale + feature.mean)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """A log's n rows, episode after episode, each in the order of time.

    Attributes:
        log: the rows in that order.
        step: place in the episode, from 0, shape ``(n,)``.
        last: whether the episode ends here; where not, the next row is the next step.
        reward: what each step earned itself, the outcome with the last.
        to_go: the discounted sum of this and the later steps' rewards.
    """

    log: Interactions
    step: Ints
    last: Bools
    reward: Floats
    to_go: Floats

    @property
    def longest(self) -> int:
        """Steps of the longest episode."""
        return int(self.step.max()) + 1 if len(self.step) else 0


def unroll(log: Interactions, spec: Spec, terminal: str = "", discount: float = 1.0) -> Steps:
    """The log's episodes.

    Raises:
        SpecError: ``terminal`` names no part of the reward.
    """
    n = len(log)
    alone = log.episode < 0
    episode = np.where(alone, log.episode.max(initial=0) + 1 + np.arange(n), log.episode)
    order = np.lexsort((log.at, episode))
    if not np.array_equal(order, np.arange(n)):
        log, episode = log.rows(order), episode[order]
    first = np.ones(n, np.bool_)
    first[1:] = episode[1:] != episode[:-1]
    last = np.ones(n, np.bool_)
    last[:-1] = first[1:]
    step = np.arange(n) - np.flatnonzero(first)[np.cumsum(first) - 1] if n else np.arange(0)
    reward = np.where(first & last, log.reward, _rewards(log, last, spec, terminal))
    return Steps(log, step, last, reward, _to_go(reward, step, last, discount))


def outcome_parts(spec: Spec, terminal: str) -> Bools:
    """Which parts of the reward are the episode's outcome, shape ``(m,)``.

    Args:
        spec: names the parts.
        terminal: names with commas between; empty: all that the edge does not measure.

    Raises:
        SpecError: A name is no part of the reward.
    """
    names = spec.reading.names
    given = [name.strip() for name in terminal.split(",") if name.strip()]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise SpecError(f"terminal {unknown[0]!r} is no part of the reward: it has {list(names)}")
    chosen = given or [name for name in names if name not in MEASURED]
    return np.array([name in chosen for name in names])


def _rewards(log: Interactions, last: Bools, spec: Spec, terminal: str) -> Floats:
    """Each step's own reward, the outcome once."""
    outcome = outcome_parts(spec, terminal)
    if log.parts.shape[1] != len(outcome) or len(outcome) == 1:
        each_step = len(outcome) == 1 and not outcome[0]
        return np.where(last | each_step, log.reward, 0.0)
    mixed = log.parts * np.array(spec.reading.mix)
    once = mixed[:, outcome].sum(axis=1) + spec.reading.offset
    return np.asarray(mixed[:, ~outcome].sum(axis=1) + np.where(last, once, 0.0))


def _to_go(reward: Floats, step: Ints, last: Bools, discount: float) -> Floats:
    """Discounted sums from each step to its episode's end: one pass a step, over all episodes."""
    found = reward.copy()
    by_step = np.argsort(step, kind="stable")
    ends = np.searchsorted(step[by_step], np.arange(step.max(initial=-1) + 2))
    for start, stop in zip(ends[-2::-1], ends[:0:-1], strict=True):
        rows = by_step[start:stop]
        rows = rows[~last[rows]]
        found[rows] += discount * found[rows + 1]
    return found


def added(moments: Moments, values: Floats, weight: Floats) -> Moments:
    """The moments with these values too."""
    total = float(weight.sum())
    if total <= 0:
        return moments
    mean = float(weight @ values) / total
    return moments.merge(Moments(total, mean, float(weight @ np.square(values - mean))))


def check_discount(learner: str, params: Mapping[str, Any]) -> None:
    """Refuse a discount outside [0, 1].

    Raises:
        SpecError: It is.
    """
    if not 0.0 <= float(params["discount"]) <= 1.0:
        raise SpecError(f"{learner}.discount is {params['discount']}: give a number from 0 to 1")
