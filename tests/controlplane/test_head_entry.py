"""Heads wait while versions of their policy are compared."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from controlplane import experiments, head_entry, heads, registry, releases
from controlplane.errors import ConflictError, InvalidError
from controlplane.experiment_config import ExperimentConfig, ExperimentVariant
from controlplane.heads_config import HeadConfig
from storage import releases as stored
from storage import versions
from tests.controlplane.heads_world import DOMAIN_HEAD, HeadsWorld
from tests.controlplane.learning_world import NOW, PUBLISHER

STAGES = {"stages": [0.5, 1], "min_seconds": 0, "unit": "request"}
HEAD = HeadConfig("topic", metric="topic", classes=("maths", "prose"), feature="sense", size=8)
End = Callable[[], None]


def add_version(at: HeadsWorld) -> int:
    """A version that chooses as the champion does."""
    policy, config = at.world.policy, at.world.settings()
    made = registry.explorer(policy, at.world.arms, config, NOW)
    with at.engine.begin() as connection:
        number = versions.next_version(connection, policy.id)
        versions.add_version(connection, replace(made, number=number))
    return number


def begin_release(at: HeadsWorld) -> End:
    """A canary that serves half of the requests."""
    number = add_version(at)
    with at.engine.begin() as connection:
        releases.start(connection, PUBLISHER, at.policy_id, number, by="a test", now=NOW)

    def end() -> None:
        with at.engine.begin() as connection:
            releases.rollback(connection, PUBLISHER, at.policy_id, now=NOW)

    return end


def begin_experiment(at: HeadsWorld) -> End:
    variants = (ExperimentVariant("old", 0.5, None), ExperimentVariant("new", 0.5, add_version(at)))
    config = ExperimentConfig("prices", variants, difference=0.1, unproven=True)
    with at.engine.begin() as connection:
        made = experiments.create(
            connection, PUBLISHER, at.world.policy, config, by="a test", now=NOW
        )

    def end() -> None:
        with at.engine.begin() as connection:
            experiments.stop(
                connection, PUBLISHER, at.world.project_id, made.id, by="a test", now=NOW
            )

    return end


def why(at: HeadsWorld) -> str | None:
    with at.engine.connect() as connection:
        return head_entry.why_waiting(connection, at.policy_id, HEAD, NOW)


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (begin_release, "version 1 waits: release 1 of version 2 is under way"),
        (begin_experiment, "version 1 waits: experiment prices is under way"),
    ],
)
def test_a_head_that_passed_waits_for_the_end_of_a_comparison(
    engine: sa.Engine, begin: Callable[[HeadsWorld], End], said: str
) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD, release=STAGES)
    end = begin(at)
    serial = at.serial()
    at.teach(300, seed=20)
    (made,) = at.step()
    assert made.passed, made.summary
    assert why(at) == said
    assert at.states() == [(1, "candidate")]
    # Nor may a person change what both sides read.
    with engine.begin() as connection, pytest.raises(ConflictError, match="is under way"):
        heads.publish(connection, PUBLISHER, at.policy_id, "topic", 1, now=NOW)
    at.teach(300, seed=21)
    assert at.step() == []  # what waits is not trained over
    assert at.serial() == serial
    assert at.world.bundle().heads.served == ()

    end()
    assert why(at) is None
    before = at.serial()
    # It serves at the next look, which trains the next one of what has come meanwhile.
    assert [one.number for one in at.step()] == [2]
    assert at.serial() > before
    assert at.states()[0][1] != "candidate"
    assert "topic" in at.world.bundle().heads.by_name


def test_a_head_can_be_taken_back_while_a_release_is_under_way(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD, release=STAGES)
    at.teach(300, seed=20)
    at.step()
    begin_release(at)
    with engine.begin() as connection:
        heads.rollback(connection, PUBLISHER, at.policy_id, "topic", now=NOW)
    assert at.world.bundle().heads.served == ()


def test_a_version_that_waits_for_a_person_does_not_serve_at_the_next_look(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, {**DOMAIN_HEAD, "auto_publish": False})
    at.teach(300, seed=20)
    at.step()
    assert at.step(NOW + timedelta(minutes=1)) == []
    assert at.states() == [(1, "candidate")]
    at.declare(DOMAIN_HEAD)
    at.step(NOW + timedelta(minutes=2))
    assert at.states() == [(1, "serving")]


def test_a_version_does_not_serve_by_itself_over_one_that_it_was_not_compared_with(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, {**DOMAIN_HEAD, "auto_publish": False}, release=STAGES)
    at.teach(100, seed=20, noise=2.5)
    at.step()
    at.teach(2_500, seed=21, noise=2.5)
    at.step()
    assert at.states() == [(1, "candidate"), (2, "candidate")]
    with engine.begin() as connection:
        heads.publish(connection, PUBLISHER, at.policy_id, "topic", 1, now=NOW)
    at.declare(DOMAIN_HEAD)
    at.step()
    # Both were compared with how frequent the classes are: who is better is not known.
    assert at.states() == [(1, "serving"), (2, "candidate")]


def test_heads_wait_for_no_release_of_another_policy(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD, release=STAGES)
    begin_release(at)
    with engine.begin() as connection:
        other = registry.put_policy(
            connection, PUBLISHER, at.world.project_id,
            name="other", pool="main", config=at.world.settings(), now=NOW,
        )  # fmt: skip
        assert stored.running_release(connection, at.policy_id) is not None
        assert head_entry.held(connection, at.policy_id, NOW) is not None
        assert head_entry.held(connection, other.id, NOW) is None


def test_no_head_reads_a_vector_that_no_log_holds(engine: sa.Engine) -> None:
    at = HeadsWorld(engine)
    with pytest.raises(InvalidError, match="give 'terms', 'static', 'embedding'") as error:
        at.declare({**DOMAIN_HEAD, "feature": "grams"})
    assert error.value.field == "heads.feature"
