"""What a version earns an episode, where the log's decisions belong to some. Pure."""

from typing import Any

import numpy as np

from controlplane.evaluation_log import LEVEL, Bench
from controlplane.specs import reading
from learners import ope
from learners.contract import Reading, Spec
from learners.episodes import Steps, unroll
from learners.errors import LearnersError
from learners.interactions import arrange
from learners.ope import EPISODE_ESTIMATORS, EpisodeEstimator, Evaluation
from learners.ope.logs import Floats, Ints

MIN_EPISODES = 20
"""Whole ones, without which nothing is said."""

Json = dict[str, Any]


def episode_values(bench: Bench, *, differ: bool) -> Json | None:
    """The first version by each estimator of episodes, and against the second if they differ.

    Only episodes all of whose decisions are among the rows count: of the others neither the first
    choices nor the last rewards are known. An outcome that was told of the episode counts once.

    Returns:
        None where there are too few, or none has a second step.
    """
    rows = _whole(bench)
    first = bench.log.log.episode[rows]
    count = len(np.unique(first))
    left_out = len(bench.episodes) - count
    if count < MIN_EPISODES or count == len(rows):
        return None
    steps = _steps(bench, rows)
    own, standing = bench.own[rows], bench.standing[rows]
    clusters = bench.log.clusters
    together = None if clusters is None else clusters[rows][steps.step == 0]
    found: Json = {
        "judged": count,
        "left_out": left_out,
        "longest": steps.longest,
        "estimates": {},
    }
    for name in EPISODE_ESTIMATORS:
        each = _evaluated(steps, own, name, together)
        found["estimates"][name] = None if each is None else _said(bench, each)
    if differ:
        both = [_evaluated(steps, one, "wdr", together) for one in (own, standing)]
        if both[0] is not None and both[1] is not None:
            spread = float(np.ptp(steps.to_go[steps.step == 0]))
            gap = ope.difference(
                both[0], both[1], level=LEVEL, reward_range=spread, interval=bench.interval
            )
            found["over_champion"] = gap.as_json()
    return found


def _whole(bench: Bench) -> Ints:
    """The rows of whole episodes, one episode after another, each in the order of time."""
    counts: dict[str, int] = {}
    for row in bench.log.rows:
        if row.episode_id is not None:
            counts[row.episode_id] = counts.get(row.episode_id, 0) + 1
    whole = {name for name, n in counts.items() if bench.episodes.get(name) == n}
    rows = np.array(
        [at for at, row in enumerate(bench.log.rows) if row.episode_id in whole], dtype=np.int64
    )
    log = bench.log.log
    if not len(rows):
        return rows
    return rows[np.lexsort((log.at[rows], log.episode[rows]))]


def _steps(bench: Bench, rows: Ints) -> Steps:
    log, reward = bench.log.log, bench.reward
    records = [bench.log.rows[at] for at in rows.tolist()]
    spec = Spec(
        schema=bench.config.schema,
        arms=log.arms,
        reading=Reading() if reward is None else reading(reward),
    )
    return unroll(arrange(records, log.x[rows], log.arms, reward), spec)


def _evaluated(
    steps: Steps, distribution: Floats, name: EpisodeEstimator, clusters: Ints | None
) -> Evaluation | None:
    try:
        return ope.evaluate_episodes(steps, distribution, name, clusters=clusters)
    except LearnersError:
        return None


def _said(bench: Bench, evaluation: Evaluation) -> Json | None:
    try:
        return bench.estimate(evaluation).as_json()
    except LearnersError:
        return None
