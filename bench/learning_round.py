"""A long log in Postgres to a frozen policy: how long a round of a million interactions takes.

Postgres and this process have a core each. A machine that is busy with other work shows in the
ratio: the seconds by the clock beside those that this process computed.
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import perf_counter, process_time

from bench.measure import Measure, Work, main
from bench.stored_log import ARMS, FEATURES, StoredLog, stored
from controlplane import logs, rounds, specs
from controlplane.config import GateConfig, LearnerConfig, PolicyConfig
from controlplane.round_log import RoundLog, preferences
from controlplane.threads import one_thread
from learners import catalogue
from learners.contract import Spec
from learners.interactions import Interactions, arrange
from learners.rewards import RewardFunction
from storage import policies
from storage.log import stream

ROWS, QUICK_ROWS = 1_000_000, 50_000
LIMIT_S = 60.0
"""For a million interactions; a shorter log has its share of it."""
FREEZE_S = 0.05
FAMILY = (
    "best_fixed",
    "per_domain",
    "linucb",
    "lints",
    "shared_linucb",
    "multi_objective",
    "hierarchical",
)
"""The learners whose state is sums."""


@dataclass(slots=True)
class Spent:
    """Seconds by the clock, and those that this process computed."""

    wall_s: float = 0.0
    own_s: float = 0.0

    @contextmanager
    def more(self) -> Iterator[None]:
        """Add what the block takes."""
        wall, own = perf_counter(), process_time()
        yield
        self.wall_s += perf_counter() - wall
        self.own_s += process_time() - own


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    logs.configure("warning")  # stdout is for the figures
    rows = QUICK_ROWS if quick else ROWS
    config = PolicyConfig(
        features=FEATURES,
        learners=(LearnerConfig("linucb"),),
        max_interactions=rows,
        gate=GateConfig(min_interactions=100),
    )
    with stored(rows, config) as place, one_thread():
        return [*from_log(place, turns=3 if quick else 15), whole_round(place)]


def from_log(place: StoredLog, *, turns: int) -> list[Measure]:
    """Read once; then each learner of the family learns all of it and freezes."""
    reading = Spent()
    with reading.more():
        log, spec = read(place)
    found, freezes, slowest = [], [], Spent()
    for name in FAMILY:
        learner = catalogue.load(name)
        learning = Spent()
        with learning.more():
            state = learner.learn(learner.init(spec), log)
            learner.freeze(state)
        slowest = max(slowest, learning, key=lambda spent: spent.wall_s)
        freezes.append(freeze(name, partial(learner.freeze, state), turns))
        found.append(taken(f"learn and freeze: {name}", learning, place.rows))
    whole = Spent(reading.wall_s + slowest.wall_s, reading.own_s + slowest.own_s)
    return [
        taken("read from Postgres and encoded", reading, place.rows),
        *found,
        taken("from Postgres to the slowest frozen policy", whole, place.rows, LIMIT_S),
        *freezes,
    ]


def read(place: StoredLog) -> tuple[Interactions, Spec]:
    """The log as a round reads it."""
    schema = place.config.schema
    with place.engine.connect() as connection:
        newest = policies.newest_reward(connection, place.policy)
        assert newest is not None
        reward = RewardFunction.from_json(newest[1])
        n = place.rows
        batches = stream(connection, place.policy, after=0, upto=n, limit=n, kept=preferences)
        found = RoundLog.read(batches, (schema,), limit=place.rows)
    assert len(found.rows) == place.rows
    log = arrange(found.rows, found.encoded(found.rows), ARMS, reward)
    return log, Spec(schema, ARMS, reading=specs.reading(reward))


def whole_round(place: StoredLog) -> Measure:
    """What a worker does: train on the older part, judge on the newer, seal and store."""
    spent = Spent()
    with spent.more():
        done = rounds.run_round(
            place.engine, place.publisher, place.policy, started_at=datetime.now(UTC)
        )
    assert done is not None
    assert not done.summary["failed"]
    return taken("a whole round of linucb and best_fixed", spent, place.rows, LIMIT_S)


def taken(what: str, spent: Spent, rows: int, million_s: float | None = None) -> Measure:
    """Seconds for a log, with what a million may take as the goal."""
    limit = None if million_s is None else million_s * rows / ROWS
    return Measure(
        measure=f"{what} ({rows:,} interactions, {len(ARMS)} arms)",
        value=round(spent.wall_s, 2),
        unit="s",
        reference=f"computed in this process: {spent.own_s:.3g} s",
        ratio=round(spent.wall_s / spent.own_s, 2),
        goal=None if limit is None else f"<= {limit:g} s",
        holds=None if limit is None else spent.wall_s <= limit,
    )


def freeze(name: str, work: Work, turns: int) -> Measure:
    """The median time that the edge's scorer takes to make."""
    found = [Spent() for _ in range(turns)]
    for spent in found:
        with spent.more():
            work()
    wall_s = statistics.median(spent.wall_s for spent in found)
    own_s = statistics.median(spent.own_s for spent in found)
    return Measure(
        measure=f"freeze: {name} ({len(ARMS)} arms, 87 columns, 2 parts)",
        value=round(1e3 * wall_s, 2),
        unit="ms",
        reference=f"computed in this process: {1e3 * own_s:.3g} ms",
        ratio=round(wall_s / own_s, 2),
        goal=f"<= {1e3 * FREEZE_S:g} ms",
        holds=wall_s <= FREEZE_S,
    )


if __name__ == "__main__":
    sys.exit(main(run))
