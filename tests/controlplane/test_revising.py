from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import agenda, overrides, revising, scorers
from controlplane.config import from_json
from controlplane.errors import InvalidError
from learners.shifts import mean_total_variation
from storage import releases as stored
from storage import revised, versions, work
from storage.releases import StoredRelease, StoredWatch
from storage.versions import StoredVersion
from storage.work import REVISE, Due
from tests.controlplane.learning_world import NOW, PUBLISHER, SPECIALISTS, value_of
from tests.controlplane.release_world import Way

TURNED = {"maths": SPECIALISTS["prose"], "prose": SPECIALISTS["maths"]}
FINE = dict.fromkeys("abcd", 0.05)
REVISE_BY = {"every_s": 60, "max_shift": 0.1, "min_rows": 100, "contexts": 500}


class Learnt:
    """A policy with a champion that a round has trained, and a log that goes on."""

    def __init__(self, engine: sa.Engine, **more: Any) -> None:
        self.way = Way(
            engine,
            rules={"stages": [], "watch_decisions": 300},
            config={"revise": {**REVISE_BY, **more}, "gate": {"share": 0.2}},
        )
        self.engine, self.world = engine, self.way.world
        self.world.log(2_000)
        assert self.world.round().summary["published"]
        self.champion = self.world.champion()[0]

    def grow(self, count: int = 4_000, means: Mapping[str, Any] = TURNED, seed: int = 60) -> None:
        self.world.log(count, means, seed=seed)
        agenda.settle(self.engine, self.world.policy.id, NOW)

    def revise(self) -> StoredRelease | None:
        return revising.step(self.engine, PUBLISHER, self.world.policy.id, now=self.way.now)

    def version(self, number: int) -> StoredVersion:
        with self.engine.connect() as connection:
            found = versions.find_version(connection, self.world.policy.id, number)
        assert found is not None
        return found


def shift(one: StoredVersion, other: StoredVersion) -> float:
    """Over contexts of the world, half of them of each domain."""
    rng = np.random.default_rng(5)
    contexts = [
        {"domain": ("maths", "prose")[i % 2], "length": float(rng.normal())} for i in range(400)
    ]
    x = scorers.schema_of(one).encode_all(contexts)
    eligible = np.ones((400, 4), dtype=np.bool_)
    both = [scorers.load(each).distribution(x, eligible) for each in (one, other)]
    return mean_total_variation(*both)


def test_a_champion_learns_on_by_a_step_that_is_short_enough(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    before = learnt.version(learnt.champion)
    learnt.grow()
    release = learnt.revise()
    assert release is not None
    after = learnt.version(release.version)
    assert (after.parent, after.learner) == (before.number, before.learner)
    assert (after.state, after.data_from) == ("champion", before.data_from)
    # It stops where the next round would begin to judge: the newest fifth of the log.
    assert before.data_to == 1_600
    assert after.data_to == 4_800
    bundle = learnt.world.bundle()
    assert (bundle.version, bundle.serial) == (after.number, 3)
    with engine.connect() as connection:
        newest = versions.newest_bundle(connection, learnt.world.policy.id)
        said = versions.list_verdicts(connection, learnt.world.policy.id, version=after.number)
    assert newest is not None
    assert newest.reason == f"revision of version {before.number}"
    assert [one.gate for one in said] == ["revision"]
    numbers = said[0].numbers
    assert numbers["whole_shift"] > 0.1
    assert numbers["shift"] == pytest.approx(0.1, abs=1e-6)
    assert 0 < numbers["share"] < 1
    assert shift(before, after) == pytest.approx(0.1, abs=0.02)
    # The world has turned: what it learnt is better than what it knew.
    assert value_of(bundle, TURNED) > value_of(replace(bundle, scorer=scorers.load(before)), TURNED)


def test_every_arm_keeps_its_exploration(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    learnt.grow()
    release = learnt.revise()
    assert release is not None
    scorer = scorers.load(learnt.version(release.version))
    x = np.random.default_rng(3).normal(size=(200, scorer.dimension))
    found = scorer.distribution(x, np.ones((200, 4), dtype=np.bool_))
    assert found.min() >= 0.1 / 4 - 1e-12
    assert found.sum(axis=1) == pytest.approx(1.0)


def test_it_is_watched_and_what_is_fine_stays(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    learnt.way.serve(400, FINE)
    learnt.grow()
    release = learnt.revise()
    assert release is not None
    assert (release.status, release.plan["by"]) == ("watching", "revision")
    assert learnt.revise() is None  # one at a time
    way = learnt.way
    way.edge_says()
    way.serve(400, FINE)
    way.edge_says()
    ruling = way.look()
    assert ruling is not None
    assert ruling.action == "pass", ruling.verdict.summary
    assert way.newest().status == "completed"
    assert learnt.world.champion()[0] == release.version


def test_a_revision_that_fails_is_taken_back_by_itself(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    way = learnt.way
    way.serve(1_000, FINE)  # what the champion earned before
    learnt.grow()
    release = learnt.revise()
    assert release is not None
    way.edge_says()
    way.serve(300, dict.fromkeys("abcd", 0.9))
    ruling = way.look()
    assert ruling is not None
    assert ruling.action == "revert", ruling.verdict.summary
    assert learnt.world.champion()[0] == learnt.champion
    assert way.newest().status == "reverted"
    assert learnt.world.bundle().serial == 4
    assert learnt.revise() is None  # not before its cooldown is over
    way.now += timedelta(seconds=601)
    assert learnt.revise() is not None


def test_where_nothing_is_new_or_allowed_there_is_no_revision(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    assert learnt.revise() is None  # nothing new
    learnt.grow()
    policy_id = learnt.world.policy.id
    with engine.begin() as connection:
        made = overrides.made(600, "monitor reward", learnt.way.now)
        stored.put_watch(
            connection,
            StoredWatch(policy_id, 0, {}, {overrides.FROZEN: made}, learnt.way.now),
        )
    assert learnt.revise() is None
    learnt.way.now += timedelta(seconds=601)
    learnt.world.retire("d")
    assert learnt.revise() is None  # its snapshot is of another pool
    learnt.world.add_arm("d")
    assert learnt.revise() is not None


def test_a_second_revision_shares_its_looks_with_the_first(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    way = learnt.way
    for seed in (60, 120):
        learnt.grow(seed=seed)
        release = learnt.revise()
        assert release is not None
        with engine.begin() as connection:
            stored.put_release(connection, replace(release, status="completed", ended_at=way.now))
        way.now += timedelta(seconds=60)
    with engine.connect() as connection:
        policy_id = learnt.world.policy.id
        line = revised.line_of(connection, policy_id, learnt.world.champion()[0])
        found = versions.looks(connection, policy_id, champions=line, reward_version=1)
    newest = learnt.world.champion()[0]
    assert line == [newest, newest - 1, learnt.champion]
    assert found == 0
    learnt.world.round()
    way.now = max(way.now, datetime.now(NOW.tzinfo))
    with engine.connect() as connection:
        assert versions.looks(connection, policy_id, champions=line, reward_version=1) == 1
        assert versions.looks(connection, policy_id, champions=line[1:], reward_version=1) == 0
        kept = learnt.version(line[1]).snapshot
        assert kept is not None
    with engine.begin() as connection:
        revised.forget_snapshots(connection, policy_id, keep=0)
    assert learnt.version(line[1]).snapshot is None
    assert learnt.version(line[2]).snapshot is not None


def test_the_agenda_finds_what_is_to_be_revised_and_when(engine: sa.Engine) -> None:
    learnt = Learnt(engine)
    learnt.grow()
    due = Due(learnt.world.policy.id, REVISE)
    at = datetime.now(NOW.tzinfo)
    with engine.begin() as connection:
        assert due in agenda.find(connection, at)
    with work.lease(engine, due, "me", at) as held:
        assert held
        agenda.perform(engine, PUBLISHER, due)
    assert learnt.version(learnt.world.champion()[0]).parent == learnt.champion
    with engine.begin() as connection:
        assert due not in agenda.find(connection, at + timedelta(seconds=30))
        assert due in agenda.find(connection, at + timedelta(seconds=120))


def test_a_revision_has_to_be_watched() -> None:
    with pytest.raises(InvalidError, match="watched as a new champion"):
        from_json({"revise": {"every_s": 60}, "release": {"watch_decisions": 0}})
    with pytest.raises(InvalidError, match=r"revise\.max_shift"):
        from_json({"revise": {"max_shift": 0}})


def test_a_round_whose_version_had_to_wait_comes_before_the_next_revision(
    engine: sa.Engine,
) -> None:
    learnt = Learnt(engine)
    learnt.grow()
    with engine.begin() as connection:
        newest = versions.newest_round(connection, learnt.world.policy.id)
        assert newest is not None
        held = {**newest.summary, "held": "release 3 of version 7 is under way"}
        versions.add_round(connection, replace(newest, number=newest.number + 1, summary=held))
    assert learnt.revise() is None
    with engine.begin() as connection:
        freed = {**newest.summary, "held": None}
        versions.add_round(connection, replace(newest, number=newest.number + 2, summary=freed))
    assert learnt.revise() is not None
