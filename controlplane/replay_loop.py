"""One pass of a learner over a table that knows every arm's outcome, as if it were live."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.replay_baselines import Side, Value, best_fixed, judge
from controlplane.simulation import tables
from controlplane.specs import reading
from kernels.signals import text as signals
from learners import catalogue, rewards
from learners.alignment import align
from learners.contract import Learner, Params, Spec
from learners.exploration import draw, unit_interval
from learners.features import Schema
from learners.interactions import Interactions, joined
from learners.priors import TAKES_NONE, Prior, as_interactions
from learners.records import Card
from learners.scorers.base import Scorer

DEFAULT_REFRESH = 32
MAX_WITHOUT_COST = 0.1
"""Share of a side's queries that may lack a cost and be left out, where the reward needs costs."""
MAX_SEEDS = 1000


class ReplayError(ValueError):
    """A replay is asked for with something that does not exist or does not fit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay, and how.

    Attributes:
        learner: a name of :mod:`learners.catalogue`.
        probes: queries at the start that are scored on, and pay for, all arms.
        seeds: replays, each with its own order, draws and delays.
        delay: fewest and most further requests before a reward arrives, drawn uniformly.
        refresh: requests whose feedback arrives between two freezes of the scorer.
        params: of the learner.
        prior: ratings that it starts from. It then learns anew at each refresh, as a round does,
            since what ratings are worth is read off all of the log.
    """

    learner: str
    probes: int = 0
    seeds: int = 5
    delay: tuple[int, int] = (0, 0)
    refresh: int = DEFAULT_REFRESH
    params: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        """Refuse what can not be replayed."""
        if self.learner not in catalogue.NAMES:
            known = ", ".join(sorted(catalogue.NAMES))
            raise ReplayError(f"no learner {self.learner!r}: there are {known}")
        if self.seeds < 1 or self.refresh < 1 or self.probes < 0:
            raise ReplayError(
                f"seeds={self.seeds}, refresh={self.refresh}, probes={self.probes}: "
                "give at least 1, 1 and 0"
            )
        if self.prior and self.learner in TAKES_NONE:
            raise ReplayError(
                f"{self.learner} takes no prior: leave it out, or name another learner"
            )
        if self.seeds > MAX_SEEDS:
            raise ReplayError(f"{self.seeds} seeds: at most {MAX_SEEDS} are replayed")
        if not 0 <= self.delay[0] <= self.delay[1]:
            raise ReplayError(f"delay {self.delay[0]}:{self.delay[1]}: give 0 <= fewest <= most")


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A table made ready: both sides encoded by one schema and paid by one reward."""

    arms: tuple[str, ...]
    schema: Schema
    train: Side
    test: Side
    cost_ref: float
    reward: rewards.RewardFunction
    without_cost: int = 0
    """Queries left out because the reward needs costs and some arm's is blank."""
    cards: tuple[Card, ...] = ()

    def spec(self, params: Params, seed: int) -> Spec:
        """What a learner is made from here."""
        return Spec(
            schema=self.schema,
            arms=self.arms,
            params=params,
            seed=seed,
            cards=self.cards,
            reading=reading(self.reward),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One seed's replay."""

    online_reward: float
    test: Value
    best_fixed_probes: Value | None
    interactions: int


def prepare(train: tables.Table, test: tables.Table, asked: str | rewards.RewardFunction) -> Course:
    """Encode both sides once for all seeds.

    Schema, ``COST_REF`` and the spreads that the reward needs come from the training side.
    Where the reward needs costs, queries of which some arm's cost is blank are left out: counted
    as free, an arm of unknown price would look like the cheapest.

    Raises:
        ReplayError: A side has no queries, too many lack a cost that the reward needs, or it needs
            a ``COST_REF`` that is not there.
        RewardError: The reward does not parse, names a column that the table lacks, or needs the
            spread of a column with too few values.
    """
    for name, side in (("training", train), ("test", test)):
        if len(side) == 0:
            raise ReplayError(f"the {name} side has no query with an outcome of every arm")
    queries = len(train) + len(test)
    if _needs_costs(asked):
        train, test = _with_costs(train, "training", asked), _with_costs(test, "test", asked)
    cost_ref = _cost_ref(train, asked)
    reward = asked
    if isinstance(reward, str):
        reward = rewards.parse(reward, {"COST_REF": cost_ref})
    if not reward.aligned:
        reward = align(reward, _columns(train, reward))
    schema = _schema(train)
    return Course(
        arms=tuple(train.arms),
        schema=schema,
        train=_encode(train, schema, reward),
        test=_encode(test, schema, reward),
        cost_ref=cost_ref,
        reward=reward,
        without_cost=queries - len(train) - len(test),
    )


def _needs_costs(asked: str | rewards.RewardFunction) -> bool:
    if isinstance(asked, str):
        return re.search(r"\b(cost_usd|COST_REF)\b", asked) is not None
    return "cost_usd" in asked.metrics


def _cost_ref(train: tables.Table, asked: str | rewards.RewardFunction) -> float:
    """The mean cost of the arm with the best mean score."""
    best = int(train.scores.mean(axis=0).argmax())
    cost_ref = float(train.costs_usd[:, best].mean())
    if cost_ref == 0 and isinstance(asked, str) and re.search(r"\bCOST_REF\b", asked):
        raise ReplayError(
            f"reward {asked!r} needs COST_REF, but the arm with the best mean score on the "
            f"training side, {train.arms[best]!r}, costs 0: give --reward without it, as 'score'"
        )
    return cost_ref


def _with_costs(
    table: tables.Table, side: str, asked: str | rewards.RewardFunction
) -> tables.Table:
    """The queries of which every arm's cost is known."""
    if table.blanks is None or not table.blanks.any():
        return table
    known = np.flatnonzero(~table.blanks.any(axis=1))
    if len(table) - len(known) > MAX_WITHOUT_COST * len(table):
        worst = table.arms[int(table.blanks.sum(axis=0).argmax())]
        shown = repr(asked) if isinstance(asked, str) else list(asked.metrics)
        raise ReplayError(
            f"reward {shown} needs cost_usd, which is blank in {table.blank_costs} outcomes of "
            f"{len(table) - len(known)} of the {len(table)} queries of the {side} side, most "
            f"often of {worst!r}: leave such arms out with --arms, or give --reward without costs, "
            "as 'score'"
        )
    return tables.take(table, known)


def _schema(table: tables.Table) -> Schema:
    """The domain, and the signals of the text, as far as the table has them."""
    rows: list[Mapping[str, Any]] = []
    if table.domains is not None:
        values = sorted(set(table.domains))
        rows.append({"name": "domain", "kind": "category", "values": values})
    if table.texts is not None:
        rows.extend(signals.SIGNAL_SCHEMA)
    return Schema.from_json(rows)


def _encode(table: tables.Table, schema: Schema, reward: rewards.RewardFunction) -> Side:
    contexts: list[dict[str, Any]] = [{} for _ in table.query_ids]
    if table.texts is not None:
        contexts = [dict(signals.read(text)) for text in table.texts]
    if table.domains is not None:
        for context, domain in zip(contexts, table.domains, strict=True):
            context["domain"] = domain
    columns = _columns(table, reward)
    all_costs = np.broadcast_to(table.costs_usd.sum(axis=1, keepdims=True), table.scores.shape)
    return Side(
        query_ids=tuple(table.query_ids),
        domains=None if table.domains is None else tuple(table.domains),
        x=schema.encode_all(contexts),
        rewards=reward.evaluate_columns(columns),
        rewards_all_paid=reward.evaluate_columns({**columns, "cost_usd": all_costs}),
        scores=table.scores,
        costs_usd=table.costs_usd,
        parts=reward.part_columns(columns),
    )


def _columns(table: tables.Table, reward: rewards.RewardFunction) -> dict[str, NDArray[np.float64]]:
    """The table's columns that a reward can name, each of shape ``(n, K)``."""
    found = {
        "score": table.scores,
        "cost_usd": table.costs_usd,
        "latency_s": table.latencies_s,
        "input_tokens": table.input_tokens,
        "output_tokens": table.output_tokens,
    }
    columns = {name: column for name, column in found.items() if column is not None}
    for name in set(reward.metrics) & set(columns):
        blank = int(np.isnan(columns[name]).sum())
        if blank:
            raise ReplayError(f"the reward needs {name}, which is blank in {blank} outcomes")
    return columns


def replay(plan: Plan, course: Course) -> list[Run]:
    """Replay every seed.

    Raises:
        SpecError: The learner refuses a parameter.
    """
    learner = catalogue.load(plan.learner)
    return [run_seed(plan, course, learner, seed) for seed in range(plan.seeds)]


def run_seed(plan: Plan, course: Course, learner: Learner, seed: int) -> Run:
    """One pass over the training side in the seed's order, then the verdict on the test side."""
    train, n = course.train, len(course.train.x)
    random = np.random.default_rng(seed)
    order = random.permutation(n)
    delays = random.integers(plan.delay[0], plan.delay[1], size=n, endpoint=True)
    probe = np.arange(n) < plan.probes
    served = _Served(order, probe, np.zeros(n, dtype=np.int64), np.ones(n))
    spec = course.spec(plan.params, seed)
    state = learner.init(spec)
    scorer = learner.freeze(state)
    learnt = 0
    log: list[Interactions] = []
    for start, stop, arrived in _schedule(delays, plan.refresh):
        _serve(scorer, course, served, slice(start, stop), str(seed))
        batch = _interactions(course, served, arrived)
        if plan.prior:
            log.append(batch)
            state = _anew(learner, spec, plan.prior, joined(log))
        else:
            state = learner.learn(state, batch)
        scorer = learner.freeze(state)
        learnt += len(batch)
    probes = train.rewards[order[served.probe]]
    n_test = len(course.test.x)
    return Run(
        online_reward=_online_reward(train, served),
        test=judge(course.test, _greedy(scorer, course)),
        best_fixed_probes=judge(course.test, best_fixed(probes, n_test)) if len(probes) else None,
        interactions=learnt,
    )


def _anew(learner: Learner, spec: Spec, prior: Prior, log: Interactions) -> Any:
    """The state of a learner that starts from a prior, after a log."""
    state = learner.learn(learner.init(spec), as_interactions(prior, spec, log))
    return learner.learn(state, log)


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """The requests of one pass, in their order; action and propensity are filled as it goes."""

    query: NDArray[np.int64]
    probe: NDArray[np.bool_]
    action: NDArray[np.int64]
    propensity: NDArray[np.float64]


def _serve(scorer: Scorer, course: Course, served: _Served, span: slice, seed: str) -> None:
    """Draw an arm for each request of the span; the same seed and query give the same draw."""
    queries = served.query[span]
    spread = scorer.distribution(course.train.x[queries], _all_eligible(queries, course.arms))
    for i, query, row in zip(range(span.start, span.stop), queries, spread, strict=True):
        served.action[i] = draw(row, unit_interval(seed, course.train.query_ids[query]))
        served.propensity[i] = row[served.action[i]]


def _online_reward(train: Side, served: _Served) -> float:
    """The mean reward of what was served; a probe pays for all arms."""
    at = served.query, served.action
    return float(np.where(served.probe, train.rewards_all_paid[at], train.rewards[at]).mean())


def _schedule(
    delays: NDArray[np.int64], refresh: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Spans of requests that one scorer serves, and what it learns from at each span's end.

    The feedback on request i is there before request ``i + 1 + delays[i]`` is served, so what
    arrives when does not depend on what is chosen. A span ends as soon as that of ``refresh``
    requests has arrived; the last one takes all that is left.

    Yields:
        First request, end (exclusive), and the requests whose feedback is learnt, as they came.
    """
    n = len(delays)
    due = np.arange(1, n + 1) + delays
    arrival = np.argsort(due, kind="stable")
    due = due[arrival]
    start = first = 0
    while start < n:
        at = first + refresh - 1
        stop = min(int(due[at]), n) if at < n else n
        last = int(np.searchsorted(due, stop, side="right")) if stop < n else n
        yield start, stop, arrival[first:last]
        start, first = stop, last


def _interactions(course: Course, served: _Served, requests: NDArray[np.int64]) -> Interactions:
    """A request teaches the drawn arm at its served probability; a probe all arms, each at 1."""
    arms_told = np.where(served.probe[requests], len(course.arms), 1)
    row = np.repeat(requests, arms_told)
    told = np.concatenate([np.arange(count) for count in arms_told])
    probe, query = served.probe[row], served.query[row]
    arm = np.where(probe, told, served.action[row])
    return Interactions(
        arms=course.arms,
        x=course.train.x[query],
        eligible=_all_eligible(query, course.arms),
        action=arm,
        propensity=np.where(probe, 1.0, served.propensity[row]),
        reward=course.train.rewards[query, arm],
        weight=np.ones(len(row)),
        at=row.astype(np.float64),
        parts=course.train.parts[query, arm],
    )


def _all_eligible(queries: NDArray[np.int64], arms: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.ones((len(queries), len(arms)), dtype=np.bool_)


def _greedy(scorer: Scorer, course: Course) -> NDArray[np.float64]:
    """The frozen policy's choices on the test side; a tie is split evenly."""
    x = course.test.x
    return scorer.greedy().distribution(x, np.ones((len(x), len(course.arms)), dtype=np.bool_))
