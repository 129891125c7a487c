from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from controlplane import publishing, registry, rounds
from controlplane.config import GateConfig, PolicyConfig
from controlplane.publishing import Publisher
from feedback import join
from learners.bundle import MAX_SIGNATURES
from storage import versions
from storage.engine import connect
from storage.versions import StoredRound
from tests.controlplane.learning_world import (
    ALIKE,
    ARMS,
    NOW,
    PUBLISHER,
    SIGNER,
    SPECIALISTS,
    World,
    value_of,
)


def test_a_better_candidate_is_published_when_that_is_switched_on(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    before = value_of(world.bundle(), SPECIALISTS)
    world.log(2_000)
    done = world.round()
    published = done.summary["published"]
    assert published in done.summary["passed"]
    assert world.champion() == (published, 2)
    bundle = world.bundle()
    assert (bundle.version, bundle.serial) == (published, 2)
    assert bundle.learner in {"linucb", "vw"}
    # The best fixed arm earns 0.55: what was published knows the domains.
    assert before == pytest.approx(0.475, abs=0.01)
    assert value_of(bundle, SPECIALISTS) > 0.65


def test_a_better_candidate_waits_for_a_person_when_it_is_off(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(2_000)
    done = world.round()
    assert done.summary["published"] is None
    assert world.champion() == (1, 1)
    assert world.bundle().serial == 1
    waiting = max(done.summary["passed"])
    with engine.begin() as connection:
        publishing.admit(connection, world.policy.id, waiting)
        publishing.promote(
            connection, PUBLISHER, world.policy.id, waiting, revision=1, reason="me", now=NOW
        )
    assert world.champion() == (waiting, 2)


def test_where_all_arms_are_alike_nothing_is_released(engine: sa.Engine) -> None:
    # A false alarm has a chance of at most 5 % over all looks; the seed is fixed.
    world = World(engine, config={"auto_promote": True})
    for seed in range(3):
        world.log(1_000, ALIKE, seed=seed)
        done = world.round()
        assert done.summary["passed"] == []
        assert done.look == seed + 1
    assert world.champion() == (1, 1)
    for verdict in world.verdicts().values():
        assert verdict.summary.startswith("not released: ")


def test_a_verdict_holds_its_numbers_and_each_check(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    world.round()
    verdicts = world.verdicts()
    assert set(verdicts) == {"best_fixed", "linucb", "vw"}
    verdict = verdicts["linucb"]
    assert verdict.passed
    numbers = verdict.numbers
    assert (numbers["judged"], numbers["look"], numbers["candidates"]) == (1_000, 1, 3)
    for name in ("value", "champion", "best_fixed", "over_champion", "over_best_fixed"):
        estimate = numbers[name]
        assert estimate["low"] <= estimate["value"] <= estimate["high"], name
        assert estimate["n"] == 1_000
    assert numbers["over_champion"]["value"] == pytest.approx(
        numbers["value"]["value"] - numbers["champion"]["value"]
    )
    assert [c["name"] for c in verdict.checks] == [
        "judged", "effective_n", "mean_weight", "over_champion", "over_best_fixed",
        "support", "concentration", "arm_calibration", "unjudged",
        "gain_seen_over_champion", "gain_seen_over_best_fixed_arm", "newer_than_training",
        "duplicates", "calibration", "logging_changes", "unweighed", "censored", "unjoined",
        "harm maths", "harm prose",
    ]  # fmt: skip
    assert all(check["passed"] and check["detail"] for check in verdict.checks)
    assert f"{numbers['over_champion']['value']:+.4f} against the champion" in verdict.summary


def test_an_estimate_covers_what_the_version_truly_earns(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    number = world.round().summary["published"]
    with engine.connect() as connection:
        [verdict] = versions.list_verdicts(connection, world.policy.id, version=number)
    value = verdict.numbers["value"]
    # Three standard errors: a false alarm in 0.3 % of seeds, and the seed is fixed.
    truth = value_of(world.bundle(), SPECIALISTS)
    assert abs(value["value"] - truth) < 3 * value["standard_error"]
    assert value["high"] - value["low"] < 0.12


def test_a_candidate_is_judged_only_on_what_is_newer_than_its_training(engine: sa.Engine) -> None:
    # The arms change places halfway: what was learned is wrong on everything newer.
    world = World(engine, config={"auto_promote": True})
    swapped = {"maths": SPECIALISTS["prose"], "prose": SPECIALISTS["maths"]}
    world.log(1_000, SPECIALISTS, seed=0)
    world.log(1_000, swapped, seed=1)
    done = world.round()
    assert done.summary["trained_on"] == [0, 1_000]
    assert done.summary["judged_on"] == [1_000, 2_000]
    assert done.summary["passed"] == []
    linucb = world.verdicts()["linucb"]
    assert linucb.numbers["judged"] == 1_000
    assert linucb.numbers["over_champion"]["high"] < 0
    with engine.connect() as connection:
        rows = versions.list_versions(connection, world.policy.id, limit=3)
    assert {(row["data_from"], row["data_to"]) for row in rows} == {(0, 1_000)}


def test_nobody_is_judged_on_what_the_champion_was_trained_on(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True, "gate": {"share": 0.2}})
    world.log(2_000)
    world.round()
    with engine.connect() as connection:
        champion = versions.find_version(connection, world.policy.id, world.champion()[0])
    assert champion is not None
    assert champion.data_to == 1_600
    world.config = {"auto_promote": True, "gate": {"share": 0.9}}
    with engine.begin() as connection:
        registry.put_policy(
            connection, PUBLISHER, world.project_id,
            name="chat", pool="main", config=world.settings(), now=NOW,
        )  # fmt: skip
    world.log(1_000, seed=5)
    done = world.round()
    assert done.summary["trained_on"] == [0, 300]
    assert done.summary["judged_on"] == [1_600, 3_000]


def test_the_same_log_and_seed_give_the_same_versions(engine: sa.Engine) -> None:
    digests = []
    for project in ("one", "two"):
        world = World(engine, project=project)
        world.log(1_000)
        world.round()
        with engine.connect() as connection:
            rows = versions.list_versions(connection, world.policy.id)
        digests.append({r["learner"]: (r["digest"], r["data_digest"], r["seed"]) for r in rows})
    assert digests[0] == digests[1]
    assert len({digest for digest, _, _ in digests[0].values()}) == 4


def test_a_version_says_by_which_ratings_it_was_trained(engine: sa.Engine) -> None:
    prior = {"ratings": {name: 1000.0 + 10 * i for i, name in enumerate(ARMS)}, "count": 30.0}
    world = World(engine, config={"prior": prior})
    world.log(2_000)
    world.round()
    with engine.connect() as connection:
        rows = versions.list_versions(connection, world.policy.id)
        made = {
            row["learner"]: version.config
            for row in rows
            if (version := versions.find_version(connection, world.policy.id, row["number"]))
        }
    assert {name: "prior" in config for name, config in made.items()} == {
        "uniform": False, "linucb": True, "vw": True, "best_fixed": False,
    }  # fmt: skip
    assert made["linucb"]["prior"] == prior


def test_another_log_gives_other_versions(engine: sa.Engine) -> None:
    digests = []
    for seed, project in enumerate(("one", "two")):
        world = World(engine, project=project)
        world.log(500, seed=seed)
        world.round()
        with engine.connect() as connection:
            [newest] = versions.list_versions(connection, world.policy.id, limit=1)
        digests.append((newest["digest"], newest["data_digest"]))
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_a_champion_that_moved_meanwhile_stays_and_the_verdicts_stand(
    engine: sa.Engine, database_url: str
) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    first = world.round().summary["published"]
    slow = connect(database_url)
    moved: list[bool] = []

    def move(_connection: sa.Connection) -> None:
        # The round has read what it needs and lets its connection go: somebody rolls back now.
        if not moved:
            moved.append(True)
            with engine.begin() as connection:
                publishing.rollback(connection, PUBLISHER, world.policy.id, now=NOW)

    sa.event.listen(slow, "rollback", move)
    world.log(1_000, seed=3)
    done = world.round(slow)
    slow.dispose()
    assert moved
    assert done.summary["champion"] == first
    assert done.summary["published"] is None
    assert world.champion() == (1, 3)
    assert world.bundle().serial == 3
    with engine.connect() as connection:
        said = versions.list_verdicts(connection, world.policy.id)
    assert {v.version for v in said} >= {int(n) for n in done.summary["candidates"]}


def test_the_verdicts_of_a_round_stand_where_its_winner_cannot_be_published(
    engine: sa.Engine,
) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    # More keys than may sign a bundle.
    crowd = Publisher((SIGNER,) * (MAX_SIGNATURES + 1), PUBLISHER.ttl)
    done = rounds.run_round(engine, crowd, world.policy.id, started_at=NOW)
    assert done is not None
    assert done.summary["published"] is None
    assert "could not be published: 33 keys" in done.summary["held"]
    assert world.champion() == (1, 1)
    assert world.bundle().serial == 1
    verdicts = world.verdicts()
    assert set(verdicts) == {"best_fixed", "linucb", "vw"}
    assert verdicts["linucb"].passed
    again = world.round()
    assert world.champion() == (again.summary["published"], 2)


def test_rows_of_a_retired_arm_still_count_and_nobody_serves_it(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    world.retire("d")
    done = world.round()
    assert done.summary["published"] is not None
    assert world.verdicts()["linucb"].numbers["judged"] == 1_000
    assert tuple(one.name for one in world.bundle().arms) == ARMS[:3]


def test_contexts_that_do_not_fit_are_left_out_and_counted(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(1_600)
    world.log(40, seed=9, context={"domain": "maths", "length": "long"})
    done = world.round()
    assert done.summary["contexts_that_did_not_fit"] == 40
    assert done.position == 1_640
    assert world.verdicts()["linucb"].numbers["judged"] == 780


def test_rollbacks_walk_back_under_rising_serials(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    first = world.round().summary["published"]
    with engine.begin() as connection:
        second = next(n for n in (2, 3, 4) if n != first)
        publishing.publish(
            connection, PUBLISHER, world.policy.id, second, reason="by hand", now=NOW
        )
    served = []
    for _ in range(2):
        with engine.begin() as connection:
            bundle = publishing.rollback(connection, PUBLISHER, world.policy.id, now=NOW)
        served.append((bundle.version, bundle.serial))
    assert served == [(first, 4), (1, 5)]
    assert world.champion() == (1, 5)


def test_a_new_arm_is_explored_at_once_without_retraining(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True, "floor": 0.1}, arms=ARMS[:3])
    world.log(2_000)
    version = world.round().summary["published"]
    world.add_arm("d")
    bundle = world.bundle()
    assert (bundle.version, tuple(one.name for one in bundle.arms)) == (version, ARMS)
    for domain in SPECIALISTS:
        found = bundle.distribution({"domain": domain, "length": 0.0}, ARMS)
        assert found[3] >= 0.1 / 4


def test_a_log_without_rewards_ends_its_round_and_is_not_due_again(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(500, rewarded=False)
    assert not world.is_due()  # nothing is joined yet
    done = world.round()
    assert (done.position, done.summary["candidates"], done.summary["passed"]) == (500, {}, [])
    assert not world.is_due()
    assert world.champion() == (1, 1)


def test_a_round_is_due_when_the_log_has_grown(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(500)
    world.round()
    assert not world.is_due()
    world.log(300, seed=1)
    with engine.begin() as connection:
        join.settle(connection, world.policy.id, now=NOW)
    assert world.is_due()


def test_each_look_at_one_champion_is_counted_and_a_new_one_starts_again(
    engine: sa.Engine,
) -> None:
    world = World(engine)
    looks = []
    for seed in range(2):
        world.log(500, seed=seed)
        looks.append(world.round().look)
    with engine.begin() as connection:
        newest = versions.list_versions(connection, world.policy.id, limit=1)[0]["number"]
        publishing.publish(connection, PUBLISHER, world.policy.id, newest, reason="", now=NOW)
    world.log(500, seed=7)
    looks.append(world.round().look)
    assert looks == [1, 2, 1]


def test_only_the_newest_round_has_candidates_that_wait(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(500)
    world.round()
    world.log(500, seed=1)
    newest = world.round()
    with engine.connect() as connection:
        rows = versions.list_versions(connection, world.policy.id)
    waiting = {str(row["number"]) for row in rows if row["state"] == "candidate"}
    assert waiting == set(newest.summary["candidates"])


@pytest.mark.parametrize(
    ("position", "due"), [(None, 400), (400, 600), (1_000, 1_500), (100, 400), (100_000, 125_000)]
)
def test_the_next_round_waits_for_a_grown_log(position: int | None, due: int) -> None:
    last = None
    if position is not None:
        at = datetime.now(UTC) - timedelta(hours=1)
        last = StoredRound(UUID(int=0), 1, position, 1, {}, at, at)
    config = PolicyConfig(gate=GateConfig(growth=1.5, min_interactions=400))
    assert rounds.due_position(config, last) == due
