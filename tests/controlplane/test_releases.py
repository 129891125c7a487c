"""From candidate to champion in steps, and back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from controlplane import agenda, overrides, publishing, registry, release_entry, releases
from controlplane.errors import ConflictError, GateError, InvalidError
from controlplane.registry import RewardBody
from learners.ids import ENTROPY_BYTES, uuid7
from learners.lineup import Split, Unit, Variant
from storage import policies, stages, versions, work
from storage import releases as stored
from storage.releases import StoredExperiment, StoredFinding, StoredWatch
from tests.controlplane.learning_world import PUBLISHER
from tests.controlplane.release_world import Way


def test_a_better_version_climbs_from_shadow_to_champion_with_a_verdict_at_each_step(
    engine: sa.Engine,
) -> None:
    way = Way(engine)
    release = way.start()
    assert (release.version, way.state_of(2), way.world.champion()[0]) == (2, "shadow", 1)
    assert way.world.bundle().lineup.shadows == (2,)
    way.pass_stage(800)
    assert way.state_of(2) == "canary"
    [split] = way.world.bundle().lineup.splits
    assert [(v.name, v.share, v.version) for v in split.variants] == [
        ("canary", 0.5, 2), ("control", 0.5, None),
    ]  # fmt: skip
    way.pass_stage(1_200)
    assert way.world.champion()[0] == 2
    assert way.world.bundle().lineup.empty
    assert way.newest().status == "watching"
    way.pass_stage(300)
    done = way.newest()
    assert (done.status, done.ended_at is not None, way.state_of(2)) == (
        "completed", True, "champion",
    )  # fmt: skip
    assert way.gates() == [
        ("release", True), ("shadow", True), ("canary 50 %", True), ("watch", True),
    ]  # fmt: skip
    assert way.look() is None


def test_a_canary_whose_arm_begins_to_fail_is_sent_back_within_a_few_dozen_failures(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"stages": [0.1, 1]})
    way.start()
    way.edge_says()
    way.serve(500, dict.fromkeys("abcd", 0.01))
    found = way.look()
    assert found is not None
    assert found.action == "stay", found.verdict.summary
    before = way.world.bundle().serial
    failures = 0
    for _ in range(40):
        way.serve(50, {**dict.fromkeys("abcd", 0.01), "a": 0.3})
        found = way.look()
        assert found is not None
        if found.action == "revert":
            break
    with engine.connect() as connection:
        failures = connection.exec_driver_sql(
            "SELECT count(*) FROM decisions d JOIN outcomes o USING (decision_id) "
            "WHERE d.variant = 'canary' AND (o.values->>'error')::float8 > 0"
        ).scalar_one()
    assert found is not None
    assert found.action == "revert", found.verdict.summary
    assert failures <= 32
    assert way.world.bundle().serial > before
    assert way.world.bundle().lineup.empty
    assert way.newest().status == "reverted"
    assert way.gates()[-1] == ("monitor", False)
    assert "sent back" in way.newest().reason
    assert way.state_of(2) == "retired"


def test_a_worse_version_is_sent_back_and_neither_it_nor_its_like_is_tried_again(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"stages": [0.5, 1], "max_reverts": 2})
    number = way.start(way.add_version("b")).version
    way.edge_says()
    for _ in range(4):
        way.serve(400)
        found = way.look()
        assert found is not None
        if found.action == "revert":
            break
    release = way.newest()
    assert (release.status, way.state_of(number)) == ("reverted", "retired")
    assert "surely fails in" in release.reason
    again = way.add_version("b")
    with engine.connect() as connection:
        policy = way.world.policy.id
        for one in (number, again):
            with pytest.raises(GateError, match="was sent back"):
                release_entry.admit(connection, policy, one)
        release_entry.admit(connection, policy, way.add_version("a"))


def test_after_a_revert_no_release_begins_by_itself_until_the_cooldown_is_over(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"max_reverts": 2})
    rules = way.world.settings().release
    for best, waits in (("b", "may begin at"), ("c", "a person has to start")):
        release = way.start(way.add_version(best))
        with engine.begin() as connection:
            soon = release_entry.too_soon(connection, release.policy_id, rules, way.now)
            assert soon == f"release {release.number} of version {release.version} is under way"
            releases.revert(
                connection, PUBLISHER, release.policy_id, release.number, by="a test", now=way.now
            )
            soon = release_entry.too_soon(connection, release.policy_id, rules, way.now)
            assert soon is not None
            assert waits in soon
            later = way.now + timedelta(seconds=601)
            soon = release_entry.too_soon(connection, release.policy_id, rules, later)
            assert (soon is None) == (best == "b")
    way.start(way.add_version("d"))  # a person may


def test_a_round_that_finishes_while_a_release_runs_starts_no_second_one(
    engine: sa.Engine,
) -> None:
    way = Way(engine)
    way.world.log(1_500)
    first = way.world.round()
    assert (first.summary["release"], first.summary["published"]) == (1, None)
    assert way.newest().plan["by"] == "round 1"
    assert way.world.champion() == (1, 1)
    way.world.log(1_500, seed=1)
    second = way.world.round()
    assert second.summary["passed"]
    assert second.summary["release"] is None
    assert "release 1 of version" in second.summary["held"]
    assert way.newest().number == 1


@pytest.mark.parametrize(("stage", "displaced"), [(0, True), (1, False)])
def test_a_version_that_surely_gains_more_displaces_one_that_only_watches(
    engine: sa.Engine, stage: int, *, displaced: bool
) -> None:
    way = Way(engine)
    before = way.start(noted={release_entry.ROUND: 1})
    with engine.begin() as connection:
        gain = sa.text(
            """UPDATE verdicts SET numbers = numbers || '{"over_champion": {"value": 0.01}}'"""
        )
        connection.execute(gain)
        stored.put_release(connection, replace(before, stage=stage))
    way.world.log(1_500)
    done = way.world.round()
    if displaced:
        assert done.summary["release"] == 2
        with engine.connect() as connection:
            ended = stored.find_release(connection, before.policy_id, 1)
        assert ended is not None
        assert (ended.status, way.state_of(before.version)) == ("stopped", "retired")
        assert way.world.bundle().lineup.shadows == (way.newest().version,)
    else:
        assert (done.summary["release"], way.newest().number) == (None, 1)
        assert "release 1 of version" in done.summary["held"]


def test_steps_wait_for_a_person_where_the_policy_says_so(engine: sa.Engine) -> None:
    way = Way(engine, {"approval": "stages", "max_seconds": 60})
    way.start()
    way.pass_stage(300)
    assert (way.newest().status, way.newest().stage) == ("waiting", 0)
    way.now += timedelta(hours=2)  # a person's time is not the stage's
    way.edge_says()
    found = way.look()
    assert found is not None
    assert way.newest().status == "waiting"
    assert way.gates()[-1] == ("shadow", True), "it is said once"
    with engine.begin() as connection:
        releases.approve(connection, PUBLISHER, way.world.policy.id, 1, by="a person", now=way.now)
    assert (way.newest().status, way.newest().stage) == ("running", 1)
    assert way.newest().reason == "approved by a person"


def test_a_stage_that_cannot_pass_in_its_time_is_sent_back_or_held(engine: sa.Engine) -> None:
    for rule, status in (("revert", "reverted"), ("hold", "held")):
        way = Way(engine, {"on_timeout": rule, "max_seconds": 60})
        way.start()
        way.now += timedelta(seconds=61)
        way.edge_says()
        found = way.look()
        assert found is not None
        assert way.newest().status == status
        assert "not passed in 60 s: 0 decisions, 100 needed" in way.newest().reason
        with engine.connect() as connection:  # which is nothing against the version
            release_entry.admit(connection, way.world.policy.id, way.newest().version)
        with engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE projects CASCADE")


def test_new_arms_begin_the_stage_again_as_its_numbers_are_of_others(engine: sa.Engine) -> None:
    way = Way(engine, {"stages": [0.5, 1]})
    before = way.start()
    way.edge_says()
    way.serve(300)
    way.world.retire("d")
    assert way.look() is None
    again = way.newest()
    assert (again.status, again.stage, again.number) == ("running", 0, before.number)
    assert again.state["serial"] > before.state["serial"]
    way.edge_says()
    found = way.look()
    assert found is not None
    checks = {check.name: check.value for check in found.verdict.checks}
    assert (found.action, checks["decisions"]) == ("stay", 0)
    way.pass_stage(1_200)
    assert way.world.champion()[0] == 2


def test_a_release_stops_when_the_champion_or_the_reward_is_changed_by_others(
    engine: sa.Engine,
) -> None:
    way = Way(engine)
    way.start()
    with engine.begin() as connection:
        registry.put_reward(connection, way.world.policy, RewardBody("2 - error"), now=way.now)
    assert way.look() is None
    assert (way.newest().status, way.world.bundle().lineup.empty) == ("stopped", True)
    assert "the reward has changed" in way.newest().reason
    way.start(way.add_version("b"))
    with engine.begin() as connection:
        publishing.publish(
            connection, PUBLISHER, way.world.policy.id, way.add_version("c"), reason="", now=way.now
        )
    assert way.look() is None
    assert (way.newest().number, way.newest().status) == (2, "stopped")


def test_an_edge_that_refuses_the_bundle_sends_the_version_back(engine: sa.Engine) -> None:
    way = Way(engine)
    way.start()
    way.serve(200)
    found = way.look()
    assert found is not None
    assert "0 edges with its golden vectors passed, 1 needed" in found.missing
    way.edge_says(nack="golden vector 3 differs")
    found = way.look()
    assert found is not None
    assert found.action == "revert"
    assert "edge edge-1 refused serial 2: golden vector 3 differs" in way.newest().reason
    (finding,) = findings(way)
    assert (finding.monitor, finding.reaction, finding.numbers["value"]) == ("release", "revert", 1)
    assert finding.summary.startswith("release 1, shadow: edge edge-1 refused serial 2")


def findings(way: Way) -> list[StoredFinding]:
    with way.engine.connect() as connection:
        return stored.list_findings(connection, way.world.policy.id)


@pytest.mark.parametrize("fault", ["edge", None])
def test_an_edge_that_cannot_take_the_bundle_holds_the_release_until_it_can(
    engine: sa.Engine, fault: str | None
) -> None:
    way = Way(engine)
    way.start()
    way.serve(400)
    why = "the manifest's lineup is not known: upgrade the edge"
    for _ in range(2):
        way.edge_says(nack=why, fault=fault)
        found = way.look()
        assert found is not None
        assert (found.action, way.newest().status) == ("hold", "held")
    assert why in way.newest().reason
    (finding,) = findings(way)
    assert (finding.monitor, finding.severity, finding.reaction) == ("edges", "warning", "hold")
    assert "upgrade them" in finding.summary
    way.edge_says()
    found = way.look()
    assert found is not None
    assert (found.action, way.newest().stage) == ("pass", 1)


def test_a_release_that_is_no_longer_held_runs_on(engine: sa.Engine) -> None:
    way = Way(engine)
    way.start()
    way.edge_says(nack="bundle format 2 is not 1: upgrade the edge", fault="edge")
    way.look()
    assert way.newest().status == "held"
    way.edge_says()
    found = way.look()
    assert found is not None
    assert (found.action, way.newest().status) == ("stay", "running")
    assert way.newest().reason == "shadow: no longer held"


def test_what_edges_never_could_take_ran_out_of_time_and_may_be_tried_again(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"max_seconds": 600.0})
    number = way.start().version
    way.edge_says(nack="signed by nobody who is trusted", fault="edge")
    way.look()
    way.now += timedelta(seconds=601)
    way.edge_says(nack="signed by nobody who is trusted", fault="edge")
    found = way.look()
    assert found is not None
    assert (found.action, found.late, way.newest().status) == ("revert", True, "reverted")
    assert [one.monitor for one in findings(way)] == ["edges"]
    way.now += timedelta(hours=2)
    assert way.start(number).status == "running"


def test_a_broken_guardrail_of_a_canary_is_a_finding_that_sent_it_back(engine: sa.Engine) -> None:
    way = Way(engine, {"stages": [0.5, 1]})
    way.start(way.add_version("b"))
    way.edge_says()
    way.serve(1_600)
    found = way.look()
    assert found is not None
    assert found.action == "revert"
    told = {one.numbers["metric"]: one for one in findings(way)}
    assert {one.reaction for one in told.values()} == {"revert"}
    assert told["error"].monitor == "guardrail"
    assert told["error"].numbers["value"] > told["error"].numbers["bound"] == 0
    assert told["error"].numbers["release"] == 1
    assert told["error"].summary.startswith("release 1, canary 50 %: error 0.")
    assert told["error"].summary.endswith("; sent back")


def test_a_new_champion_that_breaks_goes_back_to_the_one_before_and_promotion_stays_on(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"stages": [0.5, 1], "watch_decisions": 2_000})
    way.start()
    way.pass_stage(1_200)
    assert way.world.champion()[0] == 2
    serial = way.world.bundle().serial
    way.serve(400)
    found = way.look()
    assert found is not None
    assert found.action == "stay"
    for _ in range(5):
        way.serve(50, dict.fromkeys("abcd", 0.9))
        found = way.look()
        if found is not None and found.action == "revert":
            break
    assert way.newest().status == "reverted"
    assert way.world.champion()[0] == 1
    assert way.world.bundle().serial > serial
    assert way.world.policy.config["auto_promote"] is True
    with engine.connect() as connection:
        history = versions.service_history(connection, way.world.policy.id)
        assert publishing.predecessor(history) is None, "nobody rolls back to what was sent back"
        with pytest.raises(GateError, match="version 2 may not serve: watch: sent back"):
            publishing.admit(connection, way.world.policy.id, 2)


def test_a_shadow_that_cannot_score_is_sent_back(engine: sa.Engine) -> None:
    way = Way(engine)
    way.start()
    way.edge_says()
    way.serve(100)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE decisions SET shadows = NULL")
    found = way.look()
    assert found is not None
    assert found.action == "revert"
    assert "could not score 100 of 100 decisions" in way.newest().reason


def test_what_a_stage_reads_comes_newest_first_and_knows_its_sessions(engine: sa.Engine) -> None:
    way = Way(engine, session=5)
    release = way.start()
    way.serve(100)
    with engine.connect() as connection:
        rows = stages.of_version(
            connection,
            way.world.policy,
            stages.Span(release.state["serial"], release.stage_at, 1_000),
            stages.Asked(1, shadow=release.version),
            version=release.champion,
        )
    assert [row.at for row in rows] == sorted((row.at for row in rows), reverse=True)
    assert (len(rows), len({row.unit for row in rows})) == (100, 20)
    assert rows[0].unit == "0-19"


def test_a_version_goes_back_once_nobody_can_judge_it_any_more(engine: sa.Engine) -> None:
    way = Way(engine, {"stages": [0.5, 1]})
    way.start()
    way.serve(50)
    with engine.begin() as connection:
        connection.exec_driver_sql("""UPDATE outcomes SET "values" = '{"error": null}'""")
    for failed in range(1, releases.MOST_FAILED):
        assert way.look() is None
        assert (way.newest().status, way.newest().state["failed"]) == ("running", failed)
    assert way.look() is None
    assert (way.newest().status, way.world.bundle().lineup.empty) == ("reverted", True)
    assert "5 looks in a row have failed: TypeError" in way.newest().reason
    with engine.connect() as connection:
        (alarm,) = stored.list_findings(connection, way.world.policy.id)
    assert (alarm.monitor, alarm.severity, alarm.reaction) == ("release", "alarm", "revert")
    assert "5 looks in a row have failed" in alarm.summary


def test_a_stage_that_cannot_be_begun_again_stops_and_says_why(engine: sa.Engine) -> None:
    way = Way(engine, {"stages": [0.5, 1]})
    number = way.start().version
    with engine.begin() as connection:
        connection.exec_driver_sql('UPDATE arms SET spec = spec || \'{"model": "another"}\'')
        later = """UPDATE versions SET scorer = scorer || '{"kind": "later"}' WHERE number = :n"""
        connection.execute(sa.text(later).bindparams(n=number))
    assert way.look() is None
    assert way.newest().status == "stopped"
    assert "its stage could not be published: no scorer 'later'" in way.newest().reason
    assert way.world.bundle().lineup.empty


def test_what_a_round_began_waits_for_a_person_once_promoting_is_switched_off(
    engine: sa.Engine,
) -> None:
    way = Way(engine)
    way.start(noted={release_entry.ROUND: 1})
    with engine.begin() as connection:
        policies.stop_promoting(connection, way.world.policy.id, way.now)
    way.pass_stage(800)
    assert (way.newest().status, way.newest().stage) == ("waiting", 0)


def test_a_frozen_policy_takes_no_step_that_a_person_approves(engine: sa.Engine) -> None:
    way = Way(engine, {"approval": "stages"})
    policy = way.start().policy_id
    way.pass_stage(800)
    held = overrides.made(3_600, "a test", way.now)
    frozen = StoredWatch(policy, 0, {}, {overrides.FROZEN: held}, way.now)
    with engine.begin() as connection:
        stored.put_watch(connection, frozen)
        with pytest.raises(ConflictError, match="frozen until"):
            releases.approve(connection, PUBLISHER, policy, 1, by="a person", now=way.now)
    assert way.newest().status == "waiting"


def test_a_release_whose_stages_no_reward_could_pass_does_not_begin(engine: sa.Engine) -> None:
    way = Way(engine, {"max_seconds": 60})
    number = way.add_version()
    with engine.begin() as connection:
        body = RewardBody("1 - error", wait_s=60)
        registry.put_reward(connection, way.world.policy, body, now=way.now)
    with pytest.raises(InvalidError, match="known after 60 s only"):
        way.start(number)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM rewards")
    with pytest.raises(InvalidError, match="no reward to compare versions by"):
        way.start(number)
    assert way.start(number, rollout=1.0).plan["reward_version"] == 0


def experiment(way: Way, split: Split) -> StoredExperiment:
    identifier = uuid7(way.now, split.name.encode() * ENTROPY_BYTES)
    spec = {"split": split.as_json()}
    return StoredExperiment(
        identifier, way.world.policy.id, split.name, spec, "running", {}, None, way.now, None
    )


def test_what_is_sent_back_decides_for_no_experiment_either(engine: sa.Engine) -> None:
    way = Way(engine)
    bad, other = way.add_version("b"), way.add_version("c")
    with engine.begin() as connection:
        for name, number, start in (("x", bad, 0.0), ("y", other, 0.2)):
            both = (Variant("a", 0.5), Variant("b", 0.5, number))
            split = Split(name, name, "session", both, start=start, end=start + 0.2)
            stored.add_experiment(connection, experiment(way, split))
    policy = way.start(bad).policy_id
    assert [split.name for split in way.world.bundle().lineup.splits] == ["x", "y"]
    with engine.begin() as connection:
        releases.revert(connection, PUBLISHER, policy, 1, by="a person", now=way.now)
        ended = stored.list_experiments(connection, policy)[1]
    assert [split.name for split in way.world.bundle().lineup.splits] == ["y"]
    assert (ended.name, ended.status) == ("x", "ended")
    assert ended.state["reason"] == f"release 1 sent back version {bad}"


@pytest.mark.parametrize(("unit", "parts"), [("session", [1.0]), ("request", [0.4, 0.6])])
def test_no_canary_begins_where_experiments_hold_every_request(
    engine: sa.Engine, unit: Unit, parts: list[float]
) -> None:
    way, end = Way(engine), 0.0
    number = way.add_version()
    with engine.begin() as connection:
        for name, part in zip("xy", parts, strict=False):
            both = (Variant("a", 0.5), Variant("b", 0.5))
            split = Split(name, name, unit, both, start=end, end=end + part)
            end += part
            stored.add_experiment(connection, experiment(way, split))
    with pytest.raises(ConflictError, match="holds every request"):
        way.start(number)
    assert way.start(number, rollout=1.0).status == "watching"


def test_the_agenda_looks_at_a_running_release_every_few_seconds(engine: sa.Engine) -> None:
    way = Way(engine, now=datetime.now(UTC))
    policy = way.start().policy_id

    def due() -> bool:
        with engine.begin() as connection:
            found = agenda.find(connection, way.now)
        return work.Due(policy, work.RELEASE) in found

    assert due()
    agenda.perform(engine, PUBLISHER, work.Due(policy, work.RELEASE))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE work SET done_at = now() WHERE kind = 'release'")
    look_at = datetime.fromisoformat(way.newest().state["look_at"])
    way.now = look_at - timedelta(seconds=1)
    assert not due()
    way.now = look_at
    assert due()
