from typing import Any

import pytest
import sqlalchemy as sa

from controlplane import agenda, evaluating, publishing
from controlplane.errors import GateError, InvalidError, NotFoundError
from learners.ope import ESTIMATORS
from storage import versions
from tests.controlplane.learning_world import ARMS, NOW, World


@pytest.fixture
def world(engine: sa.Engine) -> World:
    """A round has trained candidates that wait; then the log went on."""
    found = World(engine)
    found.log(2_000)
    found.round()
    found.log(1_000, seed=60)
    agenda.settle(engine, found.policy.id, NOW)
    return found


def evaluate(world: World, number: int, **asked: Any) -> Any:
    with world.engine.begin() as connection:
        return evaluating.evaluate(connection, world.policy.id, number, now=NOW, **asked)


def compare(world: World, first: int, second: int, **asked: Any) -> Any:
    with world.engine.connect() as connection:
        return evaluating.compare(connection, world.policy.id, first, second, now=NOW, **asked)


def test_a_version_is_evaluated_on_rows_newer_than_its_training(world: World) -> None:
    number = world.numbers()["linucb"]
    said = evaluate(world, number)
    assert (said.gate, said.passed, said.version) == ("evaluation", True, number)
    numbers = said.numbers
    assert numbers["judged_on"] == [1_000, 3_000]
    assert numbers["judged"] == 2_000
    assert set(numbers["estimates"]) == set(ESTIMATORS)
    # It knows the domains: 0.85 but for its exploration, the champion explores evenly: 0.475.
    for name, each in numbers["estimates"].items():
        assert each["low"] < 0.81 < each["high"] + 0.03, name
    assert numbers["champion"]["value"] == pytest.approx(0.475, abs=0.03)
    assert numbers["over_champion"]["low"] > 0.2
    assert set(numbers["arms"]) == set(ARMS)
    assert numbers["arms"]["a"]["value"] > numbers["arms"]["d"]["value"]
    assert set(numbers["segments"]) == {"maths", "prose"}
    assert all(check["passed"] for check in said.checks)
    assert {check["name"] for check in said.checks} >= {"effective_size", "support"}


def test_an_evaluation_lets_nobody_serve_and_forbids_nothing(world: World) -> None:
    known = world.numbers()
    policy_id = world.policy.id
    with world.engine.connect() as connection:
        passed = {
            number: versions.list_verdicts(connection, policy_id, version=number)[0].passed
            for number in (known["linucb"], known["best_fixed"])
        }
    for number in passed:
        evaluate(world, number)
    with world.engine.connect() as connection:
        for number, good in passed.items():
            if good:
                publishing.admit(connection, policy_id, number)
                continue
            with pytest.raises(GateError):
                publishing.admit(connection, policy_id, number)


def test_two_versions_are_compared_in_pairs(world: World) -> None:
    known = world.numbers()
    found = compare(world, known["linucb"], known["best_fixed"])
    back = compare(world, known["best_fixed"], known["linucb"])
    gap = found["difference"]
    assert gap["low"] > 0.15
    assert gap["value"] == pytest.approx(-back["difference"]["value"])
    values = [each["value"] for each in found["values"]]
    assert values[0] - values[1] == pytest.approx(gap["value"])
    assert gap["standard_error"] < sum(each["standard_error"] for each in found["values"])
    assert set(found["segments"]) == {"maths", "prose"}
    assert all(one["passed"] for one in found["diagnostics"])


def test_what_cannot_be_evaluated_is_refused(world: World) -> None:
    number = world.numbers()["linucb"]
    with pytest.raises(NotFoundError, match="no version 99"):
        evaluate(world, 99)
    with pytest.raises(InvalidError, match="does not differ from itself"):
        compare(world, number, number)
    with world.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE versions SET data_to = :end WHERE number = :n"),
            {"end": world.policy.log_position, "n": number},
        )
    with pytest.raises(InvalidError, match="0 rewarded decisions are newer"):
        evaluate(world, number)
