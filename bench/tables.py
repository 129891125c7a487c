"""The full-information tables, read once and split anew for each seed."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controlplane.replay import DEFAULT_REWARD
from controlplane.replay_baselines import Side
from controlplane.replay_loop import Course, prepare
from controlplane.simulation.tables import Table, read_table
from learners import rewards
from learners.records import Card

NAMES = (
    "llmrouter9",
    "mmlu_pro",
    "bfcl",
    "zeroeval_math",
    "routellm2",
    "swebench_mini",
    "llmdrift",
)
TRAIN_SHARE = 0.7
"""Of a table's queries; the rest judges."""


def folder() -> Path | None:
    """Where the tables are, or None where nobody says."""
    root = os.environ.get("POINTSMAN_BENCH_DATA")
    return None if root is None else Path(root) / "public"


def cards(place: Path, name: str, arms: Sequence[str]) -> tuple[Card, ...]:
    """The arms' cards: list prices, as far as the tables tell them."""
    with (place / "models.csv").open(encoding="utf-8") as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream) if row["table"] == name}
    found = [rows.get(arm, {}) for arm in arms]
    return tuple(
        Card(_price(row, "usd_per_mtok_in"), _price(row, "usd_per_mtok_out")) for row in found
    )


def _price(row: Mapping[str, str], column: str) -> float:
    return float(row.get(column) or 0.0)


def pool(place: Path, name: str) -> list[str]:
    """The arms that are suggested for a table."""
    with (place / "models.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["table"] == name]
    return [row["model"] for row in rows if row["pool"] == "1"]


def read(place: Path, name: str) -> Table:
    """A table over its suggested arms, without the queries of which some arm's cost is blank."""
    queries, outcomes = (place / f"{name}.{side}.csv.gz" for side in ("queries", "outcomes"))
    return read_table(queries, outcomes, pool(place, name) or None)


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A table encoded as one side, from which any split is made without encoding again."""

    name: str
    course: Course

    @classmethod
    def of(cls, place: Path, name: str) -> "Whole":
        """Read and encode a table."""
        table = read(place, name)
        course = prepare(table, table, DEFAULT_REWARD)
        return cls(name, replace(course, cards=cards(place, name, course.arms)))

    def __len__(self) -> int:
        """How many queries."""
        return len(self.course.train.x)

    def split(self, seed: int, share: float = TRAIN_SHARE) -> Course:
        """A random split; ``COST_REF`` is of its training side."""
        order = np.random.default_rng(10_000 + seed).permutation(len(self))
        cut = round(share * len(self))
        return self.over(np.sort(order[:cut]), np.sort(order[cut:]))

    def over(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> Course:
        """The course that trains and judges on these rows."""
        side = self.course.train
        best = int(side.scores[train].mean(axis=0).argmax())
        cost_ref = float(side.costs_usd[train, best].mean())
        reward = rewards.parse(DEFAULT_REWARD, {"COST_REF": cost_ref})
        return replace(
            self.course,
            train=rows(side, train, reward),
            test=rows(side, test, reward),
            cost_ref=cost_ref,
            reward=reward,
        )


def rows(side: Side, index: NDArray[np.int64], reward: rewards.RewardFunction) -> Side:
    """Some rows of a side, paid by a reward over score and cost_usd."""
    scores, costs = side.scores[index], side.costs_usd[index]
    all_paid = np.broadcast_to(costs.sum(axis=1, keepdims=True), costs.shape)
    names = [None if side.domains is None else side.domains[i] for i in index.tolist()]
    columns = {"score": scores, "cost_usd": costs}
    return replace(
        side,
        query_ids=tuple(side.query_ids[i] for i in index.tolist()),
        domains=None if side.domains is None else tuple(str(name) for name in names),
        x=side.x[index],
        rewards=reward.evaluate_columns(columns),
        rewards_all_paid=reward.evaluate_columns({"score": scores, "cost_usd": all_paid}),
        scores=scores,
        costs_usd=costs,
        parts=reward.part_columns(columns),
    )
