"""A world of agents: tasks of several turns, each served by one arm, paid by how they end.

A task needs some turns to succeed before its turns or its money run out. Whether a turn succeeds
depends on the arm and on how hard the task is, of which the context tells the domain and a noisy
hint. An arm that did not serve the turn before finds no cached prefix and costs more. The outcome
comes once, at the end: 1 if the task was solved.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.contract import Reading
from learners.episodes import BUDGET, DOMAIN, FAILURES, LAST_ARM, SPENT, TURN, episode_schema
from learners.features import Feature, Schema
from learners.interactions import Interactions
from learners.scorers.base import Scorer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_HINT_NOISE = 0.1
_COST_SPREAD = 0.3


@dataclass(frozen=True, slots=True)
class EpisodeWorld:
    """Arms from cheap to dear, and what they do with easy and hard tasks.

    Attributes:
        success: chance that a turn succeeds, shape ``(domains, K)``.
        cost_usd: of a turn on a warm cache, at most; shape ``(K,)``.
        cold: cost of a turn on a cold cache, as a factor.
        share: of the tasks of each domain.
        needed: turns that must succeed.
        max_turns: after which the task has failed.
        budget_usd: a task that has spent more is stopped, and has failed; infinity for never.
        price: what a dollar takes off the reward.
    """

    arms: tuple[str, ...] = ("small", "middle", "large")
    domains: tuple[str, ...] = ("easy", "mixed", "hard")
    success: tuple[tuple[float, ...], ...] = (
        (0.92, 0.94, 0.96),
        (0.45, 0.75, 0.92),
        (0.08, 0.30, 0.85),
    )
    cost_usd: tuple[float, ...] = (0.005, 0.02, 0.06)
    cold: float = 1.5
    share: tuple[float, ...] = (0.45, 0.25, 0.30)
    needed: int = 4
    max_turns: int = 8
    budget_usd: float = 0.6
    price: float = 1.0

    @property
    def schema(self) -> Schema:
        """What the app tells at each turn."""
        return episode_schema(
            self.arms,
            self.domains,
            max_turns=self.max_turns,
            budget_usd=self.budget_usd,
            more=(Feature("hint", "number"),),
        )

    @property
    def reading(self) -> Reading:
        """The reward: solved, less what it cost."""
        return Reading(("solved", "cost_usd"), (1.0, -self.price))

    @property
    def bounds(self) -> Floats:
        """What no turn of an arm costs more than, USD, shape ``(K,)``."""
        return np.array(self.cost_usd) * self.cold


SPARSE = EpisodeWorld(
    success=((0.92, 0.94, 0.96), (0.40, 0.70, 0.92), (0.03, 0.20, 0.85)),
    share=(0.2, 0.2, 0.6),
    needed=5,
    budget_usd=0.8,
)
"""Most tasks are hard, and seldom solved unless the large arm serves throughout: what tempts a
learner to save the cost and give them up."""

TIGHT = EpisodeWorld(budget_usd=0.26)
"""The large arm alone breaks the budget of a task that goes wrong once: money must be planned."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Played episodes: their log, and of each what it earned, shape ``(episodes,)``."""

    log: Interactions
    reward: Floats
    solved: NDArray[np.bool_]
    spent_usd: Floats
    domain: Ints

    def share(self, arm: str, domain: int | None = None) -> float:
        """The arm's part of the turns, of one domain's tasks or of all."""
        rows = np.ones(len(self.log), np.bool_)
        if domain is not None:
            rows = self.domain[self.log.episode] == domain
        return float((self.log.action[rows] == self.log.arms.index(arm)).mean())


@dataclass(slots=True, eq=False)
class _Tasks:
    """Where each of the n tasks stands."""

    domain: Ints
    hint: Floats
    done: Ints
    failures: Ints
    spent: Floats
    last: Ints

    @classmethod
    def drawn(cls, world: EpisodeWorld, n: int, rng: np.random.Generator) -> "_Tasks":
        domain = rng.choice(len(world.domains), size=n, p=world.share)
        noise = rng.normal(scale=_HINT_NOISE, size=n)
        none = np.zeros(n, np.int64)
        return cls(domain, domain / 2 + noise, none, none.copy(), np.zeros(n), none - 1)

    def encoded(self, world: EpisodeWorld, turn: int, rows: Ints) -> Floats:
        names = (*world.arms, "")
        return world.schema.encode_all(
            [
                {
                    TURN: turn,
                    FAILURES: int(self.failures[i]),
                    SPENT: float(self.spent[i]),
                    BUDGET: world.budget_usd,
                    DOMAIN: world.domains[self.domain[i]],
                    LAST_ARM: names[self.last[i]],
                    "hint": float(self.hint[i]),
                }
                for i in rows.tolist()
            ]
        )

    def play(self, world: EpisodeWorld, rows: Ints, arm: Ints, rng: np.random.Generator) -> Floats:
        """One turn of these tasks; what each of its calls cost."""
        chance = np.array(world.success)[self.domain[rows], arm]
        won = rng.random(len(rows)) < chance
        cost = np.array(world.cost_usd)[arm] * (1 - _COST_SPREAD * rng.random(len(rows)))
        cost *= np.where(self.last[rows] == arm, 1.0, world.cold)
        self.done[rows] += won
        self.failures[rows] += ~won
        self.spent[rows] += cost
        self.last[rows] = arm
        return np.asarray(cost)


def play(world: EpisodeWorld, scorer: Scorer, n: int, seed: int, start_s: float = 0.0) -> Run:
    """So many episodes served by a policy, with the probabilities that it drew by.

    The same seed draws the same tasks, whatever serves them.
    """
    draws, luck = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    tasks = _Tasks.drawn(world, n, draws)
    live = np.arange(n)
    turns: list[tuple[Floats, Ints, Floats, Floats, Ints, Floats]] = []
    for turn in range(world.max_turns):
        x = tasks.encoded(world, turn, live)
        spread = scorer.distribution(x, np.ones((len(live), len(world.arms)), np.bool_))
        arm = _drawn(spread, luck)
        cost = tasks.play(world, live, arm, luck)
        at = np.full(len(live), start_s + turn)
        turns.append((x, arm, spread[np.arange(len(live)), arm], cost, live, at))
        over = (tasks.done >= world.needed) | (tasks.spent > world.budget_usd)
        live = live[~over[live]]
        if not len(live):
            break
    x, action, propensity, cost, episode, at = (
        np.concatenate(each) for each in zip(*turns, strict=True)
    )
    solved = (tasks.done >= world.needed) & (tasks.spent <= world.budget_usd)
    parts = np.column_stack([solved[episode], cost]).astype(np.float64)
    log = Interactions(
        arms=world.arms,
        x=x,
        eligible=np.ones((len(x), len(world.arms)), np.bool_),
        action=action,
        propensity=propensity,
        reward=parts @ np.array(world.reading.mix),
        weight=np.ones(len(x)),
        at=at,
        parts=parts,
        episode=episode,
    )
    reward = solved - world.price * tasks.spent
    return Run(log, reward, solved, tasks.spent, tasks.domain)


def _drawn(spread: Floats, rng: np.random.Generator) -> Ints:
    """An arm for each row, never one of probability 0."""
    cumulative = spread.cumsum(axis=1)
    u = rng.random(len(spread))[:, None] * cumulative[:, -1:]
    return np.asarray((cumulative <= u).sum(axis=1))
