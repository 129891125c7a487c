from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane import (
    agenda,
    overrides,
    publishing,
    registry,
    release_entry,
    watch_reading,
    watches,
)
from controlplane.errors import ConflictError
from controlplane.registry import RewardBody
from controlplane.release_config import ReleaseConfig
from storage import releases as stored
from storage import tables, versions, watching_rows
from storage.releases import StoredFinding
from storage.watching_rows import Mark, WatchedRow
from storage.work import WATCH, Due
from tests.controlplane.learning_world import NOW, PUBLISHER
from tests.controlplane.release_world import FAILS, Way

BROKEN = dict.fromkeys(FAILS, 0.9)
FINE = dict.fromkeys(FAILS, 0.02)
LOOK = {"reference": 400, "window": 200, "detectors": False, "patience": 1, "sigmas": 4.0}
NAMES = ("reward", "arm_reward", "context", "action_mix", "feedback", "propensity")
OFF = {name: {"enabled": False} for name in NAMES}


def watched(engine: sa.Engine, name: str, reaction: str, **more: Any) -> Way:
    """A policy that one monitor watches, and that has served for long enough to be known."""
    way = Way(engine, config={"monitors": {**OFF, name: {**LOOK, "reaction": reaction}, **more}})
    way.serve(600)
    assert look(way) == []
    return way


def look(way: Way) -> list[StoredFinding]:
    found, more = watches.step(way.engine, PUBLISHER, way.world.policy.id, now=way.now)
    assert not more
    way.now += timedelta(seconds=1)
    return found


def findings(way: Way) -> list[StoredFinding]:
    with way.engine.connect() as connection:
        return stored.list_findings(connection, way.world.policy.id)


def standing(way: Way) -> dict[str, Any]:
    with way.engine.connect() as connection:
        return overrides.read(connection, way.world.policy.id, way.now)


def due(way: Way, after: timedelta = timedelta(0)) -> bool:
    now = way.now + after
    with way.engine.connect() as connection:
        found = watching_rows.due_watches(connection, now, now - watches.EVERY)
    return way.world.policy.id in found


def make_champion(way: Way) -> int:
    number = way.add_version()
    with way.engine.begin() as connection:
        publishing.publish(
            connection, PUBLISHER, way.world.policy.id, number, reason="by hand", now=way.now
        )
    return number


def floor(way: Way) -> float:
    return way.world.bundle().scorer.exploration.floor


def test_what_is_usual_is_no_finding_and_each_row_is_read_once(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "freeze")
    for _ in range(3):
        way.serve(200)
        assert look(way) == []
    with engine.connect() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
    assert watch is not None
    assert watch.position == way.world.policy.log_position == 1_200
    assert watch.state["monitors"]["reward"]["reference"]["reward"][0] == 400
    assert set(watch.state["monitors"]) == {"reward"}
    assert watch.overrides == {}


def test_a_grown_log_is_due_some_seconds_after_the_last_look(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "none")
    way.now += timedelta(seconds=60)
    assert not due(way)
    way.serve(10)
    assert due(way)
    look(way)
    way.serve(10)
    assert not due(way)
    way.now += watches.EVERY
    assert due(way)


def test_an_alarm_freezes_until_somebody_unfreezes(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "freeze", hold_s=600)
    way.serve(300, BROKEN)
    (finding,) = look(way)
    assert (finding.monitor, finding.severity, finding.reaction) == ("reward", "alarm", "freeze")
    assert "frozen until" in finding.summary
    assert finding.numbers["side"] == -1
    assert [one.id for one in findings(way)] == [finding.id]
    policy_id, rules = way.world.policy.id, ReleaseConfig()
    with engine.begin() as connection:
        soon = release_entry.too_soon(connection, policy_id, rules, way.now)
        assert soon is not None
        assert "frozen until" in soon
        with pytest.raises(ConflictError, match="unfreeze it first"):
            release_entry.admit(connection, policy_id, 1, now=way.now)
        publishing.admit(connection, policy_id, 1, now=way.now)  # it has served: a way back
        later = way.now + timedelta(seconds=601)
        assert release_entry.too_soon(connection, policy_id, rules, later) is None
        assert watches.unfreeze(connection, policy_id, by="me", now=way.now) is not None
        assert release_entry.too_soon(connection, policy_id, rules, way.now) is None
        assert watches.unfreeze(connection, policy_id, by="me", now=way.now) is None
    assert [one.reaction for one in findings(way)] == ["unfreeze", "freeze"]


def test_while_it_is_frozen_a_round_releases_nothing(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "freeze", hold_s=7_776_000)
    way.serve(300, BROKEN)
    way.now = datetime.now(NOW.tzinfo)  # a round goes by the clock
    assert look(way)[0].reaction == "freeze"
    way.world.log(3_000)
    done = way.world.round()
    assert done.summary["passed"]
    assert done.summary["release"] is None
    assert "frozen until" in done.summary["held"]


def test_while_it_is_frozen_a_release_goes_no_further(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "freeze")
    way.start()
    way.serve(300, BROKEN)
    way.now += timedelta(seconds=1)
    look(way)
    assert "frozen" in standing(way)
    way.edge_says()
    way.serve(400)
    way.edge_says()
    ruling = way.look()
    assert ruling is not None
    assert ruling.action == "pass", ruling.verdict.summary
    assert way.newest().stage == 0
    with engine.begin() as connection:
        watches.unfreeze(connection, way.world.policy.id, by="me", now=way.now)
    way.look()
    assert way.newest().stage == 1


def test_widening_raises_the_floor_of_the_bundle_for_its_time(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "widen", hold_s=600, widen_to=0.5)
    make_champion(way)
    way.serve(600)
    assert look(way) == []  # another champion: its rewards are learnt anew
    assert floor(way) == pytest.approx(0.1)
    way.serve(300, BROKEN)
    (finding,) = look(way)
    assert finding.reaction == "widen"
    assert "explores 50 %" in finding.summary
    assert floor(way) == pytest.approx(0.5)
    serial = way.world.bundle().serial
    assert not due(way)
    way.now += timedelta(seconds=601)
    assert due(way)
    assert look(way) == []
    assert floor(way) == pytest.approx(0.1)
    assert way.world.bundle().serial == serial + 1
    assert standing(way) == {}


def test_widening_that_cannot_be_undone_is_said_and_the_monitors_look_on(
    engine: sa.Engine,
) -> None:
    way = watched(engine, "reward", "widen", hold_s=600, widen_to=0.5)
    way.serve(300, BROKEN)
    assert [one.reaction for one in look(way)] == ["widen"]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE arms SET retired_at = now()")
    way.now += timedelta(seconds=601)
    (finding,) = look(way)
    assert (finding.monitor, finding.severity) == ("widen", "warning")
    assert "has no arm" in finding.summary
    assert standing(way) == {}
    assert not due(way)


def test_a_revert_publishes_the_champion_before_by_a_higher_serial(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "revert")
    number = make_champion(way)
    way.serve(600)
    look(way)
    way.serve(300, BROKEN)
    (finding,) = look(way)
    assert finding.reaction == "revert"
    assert "version 1 serves again, by serial 3" in finding.summary
    assert way.world.champion()[0] == 1
    assert way.state_of(number) == "retired"
    assert way.world.policy.config["auto_promote"] is False
    with engine.connect() as connection:
        newest = versions.newest_bundle(connection, way.world.policy.id)
    assert newest is not None
    assert newest.reason.startswith(f"rollback from version {number}: monitor reward: ")


def test_a_revert_sends_a_release_back(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "revert")
    way.start()
    way.serve(300, BROKEN)
    (finding,) = look(way)
    assert "release 1 sent back" in finding.summary
    assert way.newest().status == "reverted"
    assert way.world.champion()[0] == 1  # nobody has served before


def test_nobody_goes_back_since_rewards_have_risen(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "revert")
    make_champion(way)
    way.serve(600, BROKEN)
    look(way)
    way.serve(300, FINE)
    (finding,) = look(way)
    assert (finding.severity, finding.reaction) == ("alarm", "none")
    assert way.world.champion()[0] == 2


def test_what_cannot_be_done_is_said_and_the_finding_stays(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "revert")
    way.serve(300, BROKEN)
    (finding,) = look(way)
    assert "revert could not be done: no other version has served" in finding.summary
    assert len(findings(way)) == 1


def test_another_champion_is_no_change_of_the_mix_of_arms(engine: sa.Engine) -> None:
    way = watched(engine, "action_mix", "freeze")
    make_champion(way)
    for _ in range(3):
        way.serve(300)
        assert look(way) == []
    with engine.connect() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
    assert watch is not None
    counts = watch.state["monitors"]["action_mix"]["reference"]
    assert sum(counts.values()) == 400
    assert counts["a"] > 300


def test_what_a_shadow_was_asked_is_not_watched(engine: sa.Engine) -> None:
    way = watched(engine, "action_mix", "freeze")
    way.serve(300)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.decisions).values(mode="shadow"))
        policy = way.world.policy
        end = policy.log_position
        assert watching_rows.joined(
            connection, policy, after=0, upto=end, limit=100, reward_version=1
        ) == []  # fmt: skip
    assert arrivals(way) == []


def arrivals(way: Way, within_s: float | None = None, **more: Any) -> list[WatchedRow]:
    """Whatever has arrived, from the start on."""
    asked = {"after": Mark(NOW - timedelta(days=1)), "upto": way.now, "limit": 10_000, **more}
    with way.engine.connect() as connection:
        return watching_rows.arrived(connection, way.world.policy, within_s=within_s, **asked)[0]


def test_what_needs_no_reward_is_watched_as_it_comes(engine: sa.Engine) -> None:
    week = 7 * 86_400
    way = Way(engine, config={"monitors": {**OFF, "action_mix": {**LOOK, "reaction": "freeze"}}})
    with engine.begin() as connection:
        body = RewardBody("1 - error", wait_s=week)
        registry.put_reward(connection, way.world.policy, body, now=way.now)
    way.serve(600)
    assert look(way) == []
    before = way.now
    way.serve(300)
    move(way, before)
    assert way.world.policy.log_position == 0, "no wait is over"
    assert due(way, after=watches.EVERY)
    (finding,) = look(way)
    assert (finding.monitor, finding.reaction) == ("action_mix", "freeze")
    assert "frozen" in standing(way)
    assert not due(way, after=watches.EVERY)


def move(way: Way, since: datetime) -> None:
    """Have one arm serve everything that has arrived since then."""
    late = tables.decisions.c.received_at > since
    with way.engine.begin() as connection:
        connection.execute(sa.update(tables.decisions).where(late).values(action="a"))


def test_each_arrival_is_watched_once_though_its_transaction_ends_late(engine: sa.Engine) -> None:
    way = watched(engine, "context", "none")
    way.now -= timedelta(seconds=4)
    way.serve(100)
    way.now -= timedelta(seconds=4)  # it has arrived two seconds ago
    assert look(way) == []
    assert rows_of(way, "context") == 0
    way.now += timedelta(seconds=4)
    for _ in range(2):
        assert look(way) == []
        assert rows_of(way, "context") == 100


def test_of_what_came_while_nobody_looked_only_the_newest_is_read(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = watched(engine, "context", "none")
    monkeypatch.setattr(watch_reading, "BACKLOG", 50)
    way.now += timedelta(hours=1)
    way.serve(100)
    way.now += timedelta(seconds=10)
    way.serve(60)
    way.now += timedelta(seconds=10)
    assert look(way) == []
    assert rows_of(way, "context") == 60  # all of the moment in which the 51st of them arrived
    way.serve(100)
    way.now += timedelta(seconds=10)
    assert look(way) == []
    assert rows_of(way, "context") == 160


def test_a_reading_goes_on_within_the_arrivals_of_one_moment(engine: sa.Engine) -> None:
    way = Way(engine)
    way.serve(50)
    with engine.connect() as connection:
        policy, mark, seen = way.world.policy, Mark(NOW - timedelta(days=1)), 0
        for expected in (20, 20, 10, 0):
            rows, mark = watching_rows.arrived(
                connection, policy, after=mark, upto=way.now, limit=20
            )
            assert len(rows) == expected
            seen += len(rows)
    assert seen == 50
    assert mark == Mark(way.now)


def test_a_release_that_watched_at_the_wait_only_is_gone_on_with(engine: sa.Engine) -> None:
    way = watched(engine, "propensity", "none")
    with engine.begin() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
        assert watch is not None
        known = {name: one for name, one in watch.state.items() if name != "seen"}
        stored.put_watch(connection, replace(watch, state=known))
    way.serve(100)
    assert look(way) == []
    with engine.connect() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
    assert watch is not None
    state = watch.state["monitors"]["propensity"]
    served = sum(int(told[0]) for told in (state["reference"] or {}).values())
    assert (served, state["rows"]) == (600, 100), "what was read before is not read again"


def test_feedback_counts_with_its_delay_where_it_came_in_time(engine: sa.Engine) -> None:
    way = watched(engine, "feedback", "none", feedback_within_s=60.0)
    assert {row.said_at for row in arrivals(way, within_s=60.0)} == {None}
    with engine.connect() as connection:
        ids = connection.scalars(
            sa.select(tables.decisions.c.decision_id).order_by(tables.decisions.c.decision_id)
        ).all()
    rows = arrivals(way)
    say(way, ids[0], rows[0].at + timedelta(seconds=7))
    say(way, ids[1], rows[1].at + timedelta(seconds=61))
    made = watch_reading.batch(arrivals(way, within_s=60.0, limit=10), policy_features(way))
    assert made.answered.tolist() == [True] + [False] * 9
    assert made.delay_s[0] == pytest.approx(7.0)
    assert made.distribution.sum(axis=1) == pytest.approx(1.0)
    assert set(made.context) == {"domain", "length"}


def test_feedback_is_looked_at_once_its_time_is_over_and_not_before(engine: sa.Engine) -> None:
    week = 7 * 86_400
    declared = {**OFF, "feedback": LOOK, "feedback_within_s": 60.0}
    way = Way(engine, config={"monitors": declared})
    with engine.begin() as connection:
        body = RewardBody("1 - error", wait_s=week)
        registry.put_reward(connection, way.world.policy, body, now=way.now)
    way.serve(100)
    assert look(way) == []
    assert rows_of(way, "feedback") == 0
    way.now += timedelta(seconds=60)
    assert due(way)
    assert look(way) == []
    assert rows_of(way, "feedback") == 100
    assert not due(way, after=watches.EVERY)


def rows_of(way: Way, name: str) -> int:
    with way.engine.connect() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
    assert watch is not None
    return int(watch.state["monitors"][name]["rows"])


def policy_features(way: Way) -> Any:
    return way.world.settings().schema.features


def say(way: Way, decision_id: Any, at: datetime) -> None:
    with way.engine.begin() as connection:
        connection.execute(
            sa.insert(tables.feedback).values(
                feedback_id=decision_id,
                project_id=way.world.project_id,
                decision_id=decision_id,
                metric="thumbs",
                value=True,
                number=1.0,
                source="me",
                occurred_at=at,
                tags={},
                received_at=at,
            )
        )


def test_the_agenda_finds_and_does_it(engine: sa.Engine) -> None:
    way = watched(engine, "reward", "none")
    way.serve(10)
    with engine.begin() as connection:
        found = agenda.find(connection, way.now + watches.EVERY)
    mine = Due(way.world.policy.id, WATCH)
    assert mine in found
    agenda.perform(engine, PUBLISHER, mine)
    with engine.connect() as connection:
        watch = stored.find_watch(connection, way.world.policy.id)
    assert watch is not None
    assert watch.position == way.world.policy.log_position
