"""What an evaluation reads beside plain rows: episodes, pairs, sources, rows nobody weighed."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import agenda, evaluating, registry
from controlplane.errors import InvalidError
from controlplane.registry import RewardBody
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Said
from learners.errors import EstimateError
from learners.ids import ENTROPY_BYTES, uuid7
from learners.ope import EPISODE_ESTIMATORS, ESTIMATORS, INTERVALS, paired
from tests.controlplane.learning_world import (
    ARMS,
    DOMAINS,
    NOW,
    SPECIALISTS,
    World,
    lines,
)

_random = np.random.default_rng(2026)


def new_id(at: Any) -> str:
    return str(uuid7(at, _random.bytes(ENTROPY_BYTES)))


def decisions(world: World) -> list[Any]:
    """All of the world's, oldest first."""
    with world.engine.connect() as connection:
        return list(
            connection.execute(
                sa.text(
                    "SELECT decision_id, at, context, action FROM decisions "
                    "WHERE policy_id = :p ORDER BY decision_id"
                ),
                {"p": world.policy.id},
            )
        )


def record(world: World, made: list[dict[str, Any]], told: list[dict[str, Any]]) -> None:
    with world.engine.begin() as connection:
        taken = ingest.record_decisions(connection, world.project_id, lines(made), NOW)
        assert taken.accepted == len(made), taken.rejected[:3]
        ingest.record_outcomes(connection, world.project_id, lines(told), NOW)


def decision(at: Any, domain: str, action: str, **fields: Any) -> dict[str, Any]:
    return {
        "decision_id": new_id(at), "policy": "chat", "version": 1, "serial": 1, "digest": "",
        "at": at.isoformat(), "context": {"domain": domain, "length": 0.0},
        "eligible": list(ARMS), "action": action, "distribution": [0.25] * 4, "propensity": 0.25,
        **fields,
    }  # fmt: skip


def outcome(of: dict[str, Any], **values: float) -> dict[str, Any]:
    return {"decision_id": of["decision_id"], "at": of["at"], "values": values}


@pytest.fixture
def world(engine: sa.Engine) -> World:
    """A round has trained candidates that wait."""
    found = World(engine)
    found.log(1_000)
    found.round()
    return found


def settle(world: World) -> None:
    agenda.settle(world.engine, world.policy.id, NOW + timedelta(minutes=1))


def evaluate(world: World, **asked: Any) -> Any:
    with world.engine.begin() as connection:
        return evaluating.evaluate(
            connection, world.policy.id, world.numbers()["linucb"], now=NOW, **asked
        )


def compare(world: World, **asked: Any) -> Any:
    with world.engine.connect() as connection:
        return evaluating.compare(
            connection, world.policy.id, world.numbers()["linucb"], 1, now=NOW, **asked
        )


def test_without_episodes_pairs_and_costs_nothing_is_said_of_them(world: World) -> None:
    numbers = evaluate(world).numbers
    for name in ("episodes", "pairs", "frontier", "served"):
        assert numbers[name] is None
    assert (numbers["without_propensity"], numbers["interval"]) == (0, "normal")
    # Each arm alone, on the rows where it was eligible: all of them.
    assert set(numbers["always"]) == set(ARMS)
    for arm, each in numbers["always"].items():
        truth = float(np.mean([SPECIALISTS[domain][ARMS.index(arm)] for domain in DOMAINS]))
        assert abs(each["value"] - truth) < 4 * each["standard_error"], arm


def test_an_interval_is_made_as_was_asked(world: World) -> None:
    found = {kind: evaluate(world, interval=kind).numbers for kind in INTERVALS}
    widths = {}
    for kind, numbers in found.items():
        assert numbers["interval"] == kind
        value = numbers["value"]
        assert value["value"] == found["normal"]["value"]["value"]
        assert value["low"] < value["value"] < value["high"]
        assert numbers["over_champion"]["low"] < numbers["over_champion"]["value"]
        widths[kind] = value["high"] - value["low"]
    assert widths["bootstrap"] == pytest.approx(widths["normal"], rel=0.3)
    assert widths["empirical_bernstein"] > 1.5 * widths["normal"]
    assert compare(world, interval="bootstrap")["interval"] == "bootstrap"


def test_a_log_that_cannot_judge_refuses_a_strict_comparison(world: World) -> None:
    assert compare(world, strict=True)["judged"] > 0
    with world.engine.begin() as connection:
        connection.execute(sa.text("UPDATE decisions SET distribution = ARRAY[0.4, 0.2, 0.2, 0.2]"))
    with pytest.raises(EstimateError, match=r"cannot judge this policy: .* was served"):
        compare(world, strict=True)
    assert not all(one["passed"] for one in compare(world)["diagnostics"])
    assert evaluate(world).summary.startswith("the log cannot say: ")


def with_episodes(world: World, count: int) -> None:
    """Each of two steps; what is told of it later is whether both chose the domain's arm."""
    with world.engine.begin() as connection:
        solved = Metric("solved", "boolean", level="episode", wait_s=0.0)
        registry.put_metric(connection, world.project_id, solved, now=NOW)
        registry.put_reward(connection, world.policy, RewardBody("solved", wait_s=0.0), now=NOW)
    rng = np.random.default_rng(7)
    made, told, said = [], [], []
    for number in range(count):
        at = NOW - timedelta(minutes=50) + timedelta(seconds=number)
        domain, right = DOMAINS[number % 2], ARMS[number % 2]
        chosen = [ARMS[int(rng.integers(4))] for _ in range(2)]
        for step, action in enumerate(chosen):
            one = decision(
                at + timedelta(milliseconds=step), domain, action, episode_id=f"e{number}"
            )
            made.append(one)
            told.append(outcome(one, error=0.0))
        won = all(action == right for action in chosen)
        said.append(Said("episode_id", f"e{number}", "solved", won))
    record(world, made, told)
    with world.engine.begin() as connection:
        ingest.record_feedback_batch(
            connection, world.project_id, said, source="app", now=NOW + timedelta(seconds=1)
        )
    settle(world)


def test_episodes_are_evaluated_by_estimators_of_their_own(world: World) -> None:
    with_episodes(world, 1_000)
    numbers = evaluate(world).numbers
    found = numbers["episodes"]
    assert (found["judged"], found["longest"], found["left_out"]) == (1_000, 2, 0)
    assert set(found["estimates"]) == set(EPISODE_ESTIMATORS)
    # It chooses the domain's arm with probability 0.925 or a little less, twice over; who chooses
    # evenly solves 1 of 16. The reward of a row counts the outcome twice, as by every step.
    for name, each in found["estimates"].items():
        assert each["n"] == 1_000, name
        assert each["low"] < 0.86, name
        assert each["high"] > 0.75, name
    assert found["over_champion"]["low"] > 0.4
    assert compare(world)["episodes"]["over_champion"] == found["over_champion"]


def test_an_episode_that_goes_on_beyond_the_rows_is_left_out(world: World) -> None:
    with_episodes(world, 100)
    late = decision(NOW - timedelta(minutes=40), "maths", "a", episode_id="e3")
    record(world, [late], [])  # not joined yet
    assert evaluate(world).numbers["episodes"]["left_out"] == 1


def test_rows_without_a_propensity_serve_the_direct_method_alone(world: World) -> None:
    before = evaluate(world).numbers
    rng = np.random.default_rng(3)
    made, told = [], []
    for number in range(300):
        at = NOW - timedelta(minutes=50) + timedelta(seconds=number)
        domain = DOMAINS[number % 2]
        one = decision(at, domain, ARMS[int(rng.integers(4))])
        error = float(rng.random() > SPECIALISTS[domain][ARMS.index(one["action"])])
        made.append(one)
        told.append(outcome(one, error=error))
    record(world, made, told)
    with world.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE decisions SET mode = 'imported', propensity = 'NaN' "
                "WHERE decision_id = ANY(CAST(:ids AS uuid[]))"
            ),
            {"ids": [one["decision_id"] for one in made]},
        )
    settle(world)
    said = evaluate(world)
    numbers = said.numbers
    assert said.passed
    assert numbers["without_propensity"] == 300
    assert numbers["diagnostics"]["unweighed"] == pytest.approx(300 / 800)
    for name in ESTIMATORS:
        more = 300 if name == "dm" else 0
        assert numbers["estimates"][name]["n"] == before["estimates"][name]["n"] + more, name
    assert numbers["value"] == before["value"]


def test_a_log_without_any_propensity_is_evaluated_by_the_direct_method_and_refused(
    world: World,
) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text("UPDATE decisions SET mode = 'imported', propensity = 'NaN'"))
    said = evaluate(world)
    assert not said.passed
    assert "500 of 500 rows have no propensity" in said.summary
    known = {name for name, each in said.numbers["estimates"].items() if each is not None}
    assert known == {"dm"}
    # It knows the domains: 0.85 but for its exploration.
    assert said.numbers["value"]["low"] < 0.81 < said.numbers["value"]["high"] + 0.03


def test_requests_that_two_arms_answered_calibrate_the_model(world: World) -> None:
    before = evaluate(world).numbers["over_champion"]
    made, told = [], []
    rng = np.random.default_rng(4)
    for row in decisions(world)[-200:]:
        other = ARMS[(ARMS.index(row.action) + 1 + int(rng.integers(3))) % 4]
        at = row.at + timedelta(milliseconds=1)
        others = [arm for arm in ARMS if arm != row.action]
        one = decision(
            at, row.context["domain"], other, eligible=others, distribution=[1 / 3] * 3,
            propensity=1 / 3, mode="shadow", retry_of=str(row.decision_id), version=2,
        )  # fmt: skip
        made.append(one)
        error = float(rng.random() > SPECIALISTS[row.context["domain"]][ARMS.index(other)])
        told.append(outcome(one, error=error))
    record(world, made, told)
    settle(world)
    numbers = evaluate(world).numbers
    assert numbers["pairs"]["pairs"] == 200
    assert numbers["pairs"]["error_after"] <= numbers["pairs"]["error_before"]
    assert numbers["over_champion"]["value"] == pytest.approx(before["value"], abs=0.1)
    few = 200 - paired.LEAST + 1
    with world.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE interactions SET reward = NULL WHERE decision_id = ANY(CAST(:i AS uuid[]))"
            ),
            {"i": [one["decision_id"] for one in made[:few]]},
        )
    assert evaluate(world).numbers["over_champion"] == before


def test_cost_and_score_stand_beside_the_arms_with_failures_charged(world: World) -> None:
    price = dict(zip(ARMS, (4.0, 3.0, 1.0, 0.5), strict=True))
    made, told = [], []
    rng = np.random.default_rng(5)
    for number in range(600):
        at = NOW - timedelta(minutes=50) + timedelta(seconds=number)
        domain = DOMAINS[number % 2]
        one = decision(at, domain, ARMS[int(rng.integers(4))])
        error = float(rng.random() > SPECIALISTS[domain][ARMS.index(one["action"])])
        made.append(one)
        told.append(outcome(one, error=error, cost_usd=price[one["action"]]))
    # The last one is tried again, by the dearest arm, and answered.
    told[-1]["values"] = {"error": 1.0, "cost_usd": 1.0}
    again = decision(
        NOW - timedelta(minutes=30), "maths", "a", mode="retry", retry_of=made[-1]["decision_id"]
    )
    record(world, [*made, again], [*told, outcome(again, error=0.0, cost_usd=4.0)])
    settle(world)
    with world.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE versions SET data_to = 1000 WHERE number = :n"),
            {"n": world.numbers()["linucb"]},
        )
    numbers = evaluate(world).numbers
    frontier, served = numbers["frontier"], numbers["served"]
    assert (frontier["judged"], frontier["without_cost"]) == (601, 0)
    assert frontier["penalty_usd"] in price.values()
    assert {one["name"] for one in frontier["points"]["singles"]} == set(ARMS)
    names = [one["name"] for one in frontier["points"]["router"]]
    assert names == [f"version {world.numbers()['linucb']}", "version 1"]
    assert {"nauc", "peak", "qnc", "share_1.00"} <= set(frontier["figures"])
    assert frontier["figures"]["peak"]["low"] < 0.81 < frontier["figures"]["peak"]["high"] + 0.03
    # What an arm that fails costs is what it took and the penalty: about 0.7 of that for d.
    single = {one["name"]: one["cost"]["value"] for one in frontier["points"]["singles"]}
    expected = price["d"] + 0.7 * frontier["penalty_usd"]
    assert single["d"] == pytest.approx(expected, abs=0.4)
    assert (served["requests"], served["attempts"]) == (600, 601)
    assert served["cost_usd"] > np.mean(list(price.values()))


def judged_by_two(world: World) -> None:
    """A judge grades all and likes arm d; reviewers, who are right, grade a fifth."""
    with world.engine.begin() as connection:
        registry.put_metric(connection, world.project_id, Metric("good", "boolean"), now=NOW)
        registry.put_reward(connection, world.policy, RewardBody("good", wait_s=0.0), now=NOW)
    rng = np.random.default_rng(11)
    graded: dict[str, list[Said]] = {"judge": [], "reviewers": []}
    for row in decisions(world):
        worth = SPECIALISTS[row.context["domain"]][ARMS.index(row.action)]
        seen = 0.95 if row.action == "d" else worth
        graded["judge"].append(say(row.decision_id, rng.random() < seen))
        if rng.random() < 0.2:
            graded["reviewers"].append(say(row.decision_id, rng.random() < worth))
    for source, said in graded.items():
        with world.engine.begin() as connection:
            for start in range(0, len(said), 1_000):
                ingest.record_feedback_batch(
                    connection,
                    world.project_id,
                    said[start : start + 1_000],
                    source=source,
                    now=NOW,
                )
    settle(world)


def say(decision_id: UUID, good: bool) -> Said:  # noqa: FBT001 -- what is said
    return Said("decision_id", str(decision_id), "good", bool(good))


def test_an_evaluation_hears_the_sources_that_the_policy_trusts(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(3_000)
    world.round()
    judged_by_two(world)
    gamed = evaluate(world).numbers["always"]["d"]
    world.put(sources={"trusted": ["reviewers"]})
    right = evaluate(world).numbers["always"]["d"]
    assert gamed["low"] > 0.8
    assert abs(right["value"] - 0.3) < 4 * right["standard_error"]
    assert right["high"] < 0.6


def test_grades_that_nobody_trusted_has_looked_into_judge_nobody(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(2_000)
    world.round()
    judged_by_two(world)
    world.put(sources={"trusted": ["nobody"]})
    with pytest.raises(InvalidError, match="a grade of a trusted source"):
        evaluate(world)


def test_numbers_are_plain(world: World) -> None:
    with_episodes(world, 60)
    json.dumps(evaluate(world).numbers, allow_nan=False)
