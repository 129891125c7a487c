"""A judge that is gamed, from feedback over HTTP's own calls to what is released."""

from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import registry
from controlplane.registry import RewardBody
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Receipt, Said
from learners.records import Context
from tests.controlplane.learning_world import ARMS, NOW, World, value_of

WORTH = {"maths": (0.8, 0.3, 0.3, 0.0), "prose": (0.8, 0.3, 0.3, 0.0)}
"""Each arm's true chance of success; the judge sees 0.95 in the last."""
GAMED = 0.95
WITH_REVIEWERS = {"sources": {"trusted": ["reviewers"]}}


def judged(engine: sa.Engine, **config: Any) -> World:
    """A world with 3,000 decisions, all graded by a judge, a tenth by reviewers too."""
    world = World(engine, config={"auto_promote": True, **config})
    world.log(3_000, rewarded=False)
    with engine.begin() as connection:
        registry.put_metric(connection, world.project_id, Metric("good", "boolean"), now=NOW)
        registry.put_reward(connection, world.policy, RewardBody("good", wait_s=0.0), now=NOW)
        rows = connection.execute(
            sa.text("SELECT decision_id, action FROM decisions WHERE project_id = :p ORDER BY 1"),
            {"p": world.project_id},
        ).all()
    rng = np.random.default_rng(11)
    worth = dict(zip(ARMS, WORTH["maths"], strict=True))
    judge = [(i, bool(rng.random() < (GAMED if a == "d" else worth[a]))) for i, a in rows]
    reviewed = [(i, bool(rng.random() < worth[a])) for i, a in rows if rng.random() < 0.1]
    say(world, "judge", judge)
    say(world, "reviewers", reviewed)
    return world


def say(world: World, source: str, said: list[tuple[UUID, bool]]) -> None:
    for start in range(0, len(said), 1_000):
        batch = [Said("decision_id", str(i), "good", v) for i, v in said[start : start + 1_000]]
        with world.engine.begin() as connection:
            answers = ingest.record_feedback_batch(
                connection, world.project_id, batch, source=source, now=NOW
            )
        assert all(isinstance(answer, Receipt) for answer in answers)


def share_of_gamed(world: World) -> float:
    context: Context = {"domain": "maths", "length": 0.0}
    return float(world.bundle().distribution(context, list(ARMS))[ARMS.index("d")])


def test_a_judge_alone_has_the_gamed_arm_released(engine: sa.Engine) -> None:
    world = judged(engine)
    done = world.round()
    assert done.summary["published"]
    assert share_of_gamed(world) > 0.8
    assert value_of(world.bundle(), WORTH) < 0.2


def test_reviewers_of_a_tenth_have_the_best_arm_released_and_the_gamed_one_avoided(
    engine: sa.Engine,
) -> None:
    world = judged(engine, **WITH_REVIEWERS)
    done = world.round()
    assert done.summary["published"]
    # The policy's floor alone gives it .025.
    assert share_of_gamed(world) < 0.05
    assert value_of(world.bundle(), WORTH) > 0.7
    bias = done.summary["bias"]["judge"]
    assert bias["d"] == pytest.approx(-GAMED, abs=0.1)
    assert abs(bias["a"]) < 0.2


def test_what_a_version_is_worth_is_told_by_the_reviewers_scale(engine: sa.Engine) -> None:
    world = judged(engine, **WITH_REVIEWERS)
    world.round()
    verdict = world.verdicts()["best_fixed"]
    interval = verdict.numbers["value"]
    # About .72 with the floor's share; 4 standard errors: 1 false alarm in 15,000.
    assert abs(interval["value"] - 0.72) < 4 * interval["standard_error"]
    assert interval["standard_error"] > 0.01


def test_a_capped_judge_beside_other_sources_still_lets_a_round_end(engine: sa.Engine) -> None:
    sources = {"trust": {"judge": 0.5}, "trusted": ["reviewers"], "max_influence": 0.5}
    world = judged(engine, sources=sources)
    done = world.round()
    assert set(done.summary["candidates"].values()) == {"linucb", "vw", "best_fixed"}
    assert share_of_gamed(world) < 0.3
