"""Streams of requests over a table whose outcomes change without a word, passed to any router.

A stream is the training side in a random order, again and again. From one request on, other
outcomes are drawn. Learners serve as they would (drawn by the scorer's probabilities, which are
logged) and learn every :data:`REFRESH` requests; rivals learn at each.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench import rivals
from controlplane.replay_baselines import Side
from controlplane.replay_loop import Course
from learners import catalogue, rewards
from learners.contract import Params, Spec
from learners.interactions import Interactions

PROBES = 200
REFRESH = 64
"""Requests between two freezes, and between two looks at what a router would choose."""
NEAR = 0.02
"""How near to the new best arm a router is to come."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The same requests under the outcomes before and after."""

    name: str
    before: Course
    after: Course

    @property
    def best_after(self) -> float:
        """What the best fixed arm earns on the test side after the change."""
        return float(self.after.test.rewards.mean(axis=0).max())


class Router(Protocol):
    """What is passed over a stream."""

    def serve(self, course: Course, rows: Integers, *, probe: bool = False) -> None:
        """Serve these rows of the training side, and learn what they earned."""

    def earned(self, course: Course) -> float:
        """What its choices earn on the test side, without exploration."""


class Learning:
    """A learner of the catalogue, with the scorer that serves."""

    def __init__(self, name: str, course: Course, params: Params, seed: int) -> None:
        """Nothing learnt yet."""
        self._learner = catalogue.load(name)
        self.spec: Spec = course.spec(params, seed)
        self.state: Any = self._learner.init(self.spec)
        self.scorer = self._learner.freeze(self.state)
        self._random = np.random.default_rng(seed)
        self.picks: Counter[str] = Counter()

    def serve(self, course: Course, rows: Integers, *, probe: bool = False) -> None:
        """Serve these rows and learn them together."""
        k = len(course.arms)
        x, everyone = course.train.x[rows], np.ones((len(rows), k), dtype=np.bool_)
        if probe:
            row, action = np.repeat(rows, k), np.tile(np.arange(k), len(rows))
            propensity = np.ones(len(row))
        else:
            spread = self.scorer.distribution(x, everyone)
            least = self._random.random(len(rows))[:, None]
            drawn = (np.cumsum(spread, axis=1) / spread.sum(axis=1, keepdims=True) <= least).sum(1)
            row, action = rows, np.minimum(drawn, k - 1)
            propensity = spread[np.arange(len(rows)), action]
            self.picks.update(self.scorer.arms[arm] for arm in action.tolist())
        log = Interactions(
            arms=course.arms,
            x=course.train.x[row],
            eligible=np.ones((len(row), k), dtype=np.bool_),
            action=action,
            propensity=propensity,
            reward=course.train.rewards[row, action],
            weight=np.ones(len(row)),
            parts=course.train.parts[row, action],
        )
        self.state = self._learner.learn(self.state, log)
        self.scorer = self._learner.freeze(self.state)

    def rearm(self, course: Course) -> None:
        """Go on over this course's arms."""
        old, spec = self.spec, course.spec(self.spec.params, self.spec.seed)
        # The schema and the reward stay those that it was made with.
        self.spec = replace(spec, schema=old.schema, reading=old.reading)
        self.state = self._learner.rearm(self.state, self.spec)
        self.scorer = self._learner.freeze(self.state)
        self.picks.clear()

    def shares(self, course: Course) -> Floats:
        """How often each arm is its choice on the test side, shape ``(K,)``."""
        x = course.test.x
        everyone = np.ones((len(x), len(course.arms)), dtype=np.bool_)
        return np.asarray(self.scorer.greedy().distribution(x, everyone).mean(axis=0))

    def earned(self, course: Course) -> float:
        """What the scorer's best choices earn on the test side."""
        x = course.test.x
        everyone = np.ones((len(x), len(course.arms)), dtype=np.bool_)
        choice = self.scorer.greedy().distribution(x, everyone)
        return float((choice * course.test.rewards).sum() / len(x))


class Rivalling:
    """A rival of :mod:`bench.rivals`."""

    def __init__(self, name: str, course: Course, seed: int) -> None:
        """Nothing learnt yet."""
        self._rival = rivals.make(name, course, seed)
        self._domains = rivals.domain_codes(course, course.test.domains, len(course.test.x))

    def serve(self, course: Course, rows: Integers, *, probe: bool = False) -> None:
        """Serve these rows, and learn each before the next."""
        for row in rows.tolist():
            arms = range(len(course.arms)) if probe else (self._rival.choose(row),)
            for arm in arms:
                self._rival.update(row, arm, float(course.train.rewards[row, arm]))

    def earned(self, course: Course) -> float:
        """What its best choices earn on the test side."""
        chosen = self._rival.choices(course.test.x, self._domains)
        return float(course.test.rewards[np.arange(len(chosen)), chosen].mean())


def passes(course: Course, seed: int) -> Iterator[Integers]:
    """Rows of the training side in spans of :data:`REFRESH`, pass after pass, without an end."""
    random = np.random.default_rng([seed, 77])
    n = len(course.train.x)
    rest = np.empty(0, dtype=np.int64)
    while True:
        rest = np.concatenate([rest, random.permutation(n)])
        while len(rest) >= REFRESH:
            yield rest[:REFRESH]
            rest = rest[REFRESH:]


def recovery(
    router: Router, change: Change, seed: int, before: int, after: int, *, whole: bool = True
) -> list[float]:
    """What a router earns after the change: at once, and after each :data:`REFRESH` requests.

    Args:
        router: before any learning.
        change: at the request ``before``, and ``after`` more follow.
        seed: of the order of the requests; the first :data:`PROBES` are probes.
        before: requests until the change.
        after: requests from it.
        whole: whether to go on when it has recovered.
    """
    rows = passes(change.before, seed)
    for start in range(0, before, REFRESH):
        probe = start < PROBES
        router.serve(change.before, next(rows), probe=probe)
    found = [router.earned(change.after)]
    for _ in range(0, after, REFRESH):
        router.serve(change.after, next(rows))
        found.append(router.earned(change.after))
        if not whole and math.isfinite(rounds(found[:-1], change.best_after)):
            break
    return found


def rounds(earned: list[float], best: float) -> float:
    """Requests until a router is near the best arm, twice in a row; infinite where it never is."""
    near = [value >= best - NEAR for value in earned]
    for i, (now, then) in enumerate(zip(near, [*near[1:], near[-1]], strict=True)):
        if now and then:
            return float(i * REFRESH)
    return float("inf")


def with_outcomes(
    course: Course,
    scores: tuple[Floats, Floats],
    costs: tuple[Floats, Floats],
    arms: tuple[str, ...] | None = None,
) -> Course:
    """The course with other scores and costs of the training and of the test side."""
    sides = [
        _side(side, score, cost, course.reward)
        for side, score, cost in zip((course.train, course.test), scores, costs, strict=True)
    ]
    names = course.arms if arms is None else arms
    cards = course.cards if len(names) == len(course.arms) else ()
    return replace(course, arms=names, cards=cards, train=sides[0], test=sides[1])


def _side(side: Side, scores: Floats, costs: Floats, reward: rewards.RewardFunction) -> Side:
    columns = {"score": scores, "cost_usd": costs}
    paid = np.broadcast_to(costs.sum(axis=1, keepdims=True), costs.shape)
    return replace(
        side,
        rewards=reward.evaluate_columns(columns),
        rewards_all_paid=reward.evaluate_columns({**columns, "cost_usd": paid}),
        scores=scores,
        costs_usd=costs,
        parts=reward.part_columns(columns),
    )


def over_arms(course: Course, places: list[int]) -> Course:
    """The course with these of its arms only."""
    sides = (course.train, course.test)
    scores = tuple(side.scores[:, places] for side in sides)
    costs = tuple(side.costs_usd[:, places] for side in sides)
    names = tuple(course.arms[i] for i in places)
    found = with_outcomes(course, (scores[0], scores[1]), (costs[0], costs[1]), names)
    return replace(found, cards=tuple(course.cards[i] for i in places) if course.cards else ())


def swapped(course: Course) -> Change:
    """The arms of the best and of the worst mean reward become each other."""
    order = np.arange(len(course.arms))
    mean = course.train.rewards.mean(axis=0)
    best, worst = int(mean.argmax()), int(mean.argmin())
    order[[best, worst]] = worst, best
    sides = (course.train, course.test)
    after = with_outcomes(
        course,
        (sides[0].scores[:, order], sides[1].scores[:, order]),
        (sides[0].costs_usd[:, order], sides[1].costs_usd[:, order]),
    )
    return Change("best and worst arm swapped", course, after)


def degraded(course: Course) -> Change:
    """The best arm's scores fall by half, at the same cost."""
    best = int(course.train.rewards.mean(axis=0).argmax())
    part = np.ones(len(course.arms))
    part[best] = 0.5
    after = with_outcomes(
        course,
        (course.train.scores * part, course.test.scores * part),
        (course.train.costs_usd, course.test.costs_usd),
    )
    return Change("the best arm's scores halved", course, after)


def endpoints(course: Course) -> Change:
    """Two endpoints whose models are replaced: the March snapshots by the June ones.

    Paid by the score alone: with costs, the dear endpoint is hardly the best one even in March.
    """
    alone = replace(course, reward=rewards.parse("score"))
    march = over_arms(alone, [course.arms.index(name) for name in MARCH])
    june = over_arms(alone, [course.arms.index(name) for name in JUNE])
    names = ("gpt-3.5-turbo", "gpt-4")
    return Change(
        "March to June snapshots",
        replace(march, arms=names),
        replace(june, arms=names, cards=march.cards),
    )


MARCH = ("gpt-3.5-turbo-0301", "gpt-4-0314")
JUNE = ("gpt-3.5-turbo-0613", "gpt-4-0613")
