"""The world of a table: real outcomes by query, with drifts that can break its arms."""

from collections import Counter

import numpy as np
import pytest

from controlplane.simulation.contract import (
    EVERY_DOMAIN,
    START,
    Answer,
    AnyWorld,
    Drift,
    Moment,
    UnknownQueryError,
    WorldError,
)
from controlplane.simulation.prompts import key_of
from controlplane.simulation.table_world import TableWorld
from controlplane.simulation.tables import Table, take
from controlplane.simulation.world import default_world

TABLE = Table(
    query_ids=("q-1", "q-2", "q-3"),
    texts=("What is two and two?", "Name a river.", "Name a hill."),
    domains=("maths", "places", "places"),
    arms=("cheap", "dear"),
    scores=np.array([[0.0, 1.0], [0.5, 0.75], [1.0, 1.0]]),
    costs_usd=np.array([[0.001, 0.01], [0.001, 0.02], [0.002, 0.03]]),
    latencies_s=np.array([[0.5, 2.0], [np.nan, 2.0], [0.5, 2.0]]),
)


def answer(world: AnyWorld, key: str, arm: str, t: Moment = START) -> Answer:
    return world.answer(key, arm, f"text\n[query {key}]", t=t)


def test_answers_are_those_of_the_table():
    world = TableWorld(TABLE)
    found = answer(world, "q-2", "dear")
    assert (found.score, found.cost_usd, found.latency_s) == (0.75, 0.02, 2.0)
    assert found.first_token_s < found.latency_s
    assert world.card("dear")["mean_score"] == pytest.approx(2.75 / 3)
    assert world.domains == ("maths", "places")


def test_what_the_table_does_not_tell_is_made_up_the_same_way_each_time():
    first, second = (answer(TableWorld(TABLE, seed=3), "q-2", "cheap") for _ in range(2))
    assert first == second
    assert first.latency_s > 0
    assert first.output_tokens > 0
    assert answer(TableWorld(TABLE, seed=4), "q-2", "cheap") != first


def test_a_prompt_ends_with_the_key_of_its_query_and_each_comes_once_a_round():
    world = TableWorld(TABLE)
    queries = list(world.prompts(7, np.random.default_rng(0)))
    assert all(key_of(query.prompt) == query.key for query in queries)
    assert all(query.prompt.startswith(("What is", "Name a")) for query in queries)
    assert Counter(query.key for query in queries[:6]) == {"q-1": 2, "q-2": 2, "q-3": 2}
    assert {query.key: query.domain for query in queries}["q-1"] == "maths"


def test_drifts_shift_break_and_slow_an_arm_of_the_table():
    drifts = (
        Drift("dear", at_request=1, skill_shift={"places": -0.5}, latency_factor=2.0),
        Drift("dear", at_request=2, failure_rate=1.0),
    )
    world = TableWorld(TABLE, drifts)
    late = answer(world, "q-2", "dear", Moment(1))
    assert (late.score, late.latency_s) == (0.25, 4.0)
    assert answer(world, "q-1", "dear", Moment(1)).score == 1.0
    assert answer(world, "q-2", "cheap", Moment(2)).score == 0.5
    assert answer(world, "q-2", "dear", Moment(2)).failed
    assert not answer(world.with_drifts(()), "q-2", "dear", Moment(2)).failed


def test_a_table_without_domains_has_one_for_all():
    table = Table(("q",), None, None, ("a",), np.ones((1, 1)), np.zeros((1, 1)))
    world = TableWorld(table, (Drift("a", at_s=0.0, skill_shift={EVERY_DOMAIN: -0.5}),))
    assert world.domains == (EVERY_DOMAIN,)
    query = next(world.prompts(1, np.random.default_rng(0)))
    assert answer(world, query.key, "a").score == 0.5


def test_what_the_table_does_not_hold_is_refused():
    world = TableWorld(TABLE)
    with pytest.raises(UnknownQueryError, match=r"\[query <query_id>\]"):
        answer(world, "q-9", "dear")
    with pytest.raises(WorldError, match="no arm 'gone'"):
        answer(world, "q-1", "gone")
    with pytest.raises(WorldError, match="no queries"):
        TableWorld(take(TABLE, []))
    with pytest.raises(WorldError, match="no domain"):
        TableWorld(TABLE, (Drift("dear", at_s=0.0, skill_shift={"law": 0.1}),))


@pytest.mark.parametrize("world", [TableWorld(TABLE), default_world()])
def test_both_worlds_keep_the_same_contract(world: AnyWorld):
    for query in world.prompts(50, np.random.default_rng(1)):
        assert query.key == key_of(query.prompt)
        assert query.domain in world.domains
        for arm in world.arm_names:
            found = world.answer(query.key, arm, query.prompt)
            assert 0.0 <= found.score <= 1.0
            assert found.cost_usd >= 0.0
            assert 0.0 <= found.first_token_s <= found.latency_s
            assert found == world.answer(query.key, arm, query.prompt)
