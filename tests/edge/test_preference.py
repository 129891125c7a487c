import numpy as np
import pytest

from edge.errors import ProblemError
from edge.preference import MAX_NAME, MAX_PARTS, read_preference
from kernels.signals.text import read
from learners.exploration import Exploration
from learners.lineup import Golden
from learners.scorers.mixed import Mixed
from tests.edge.doubles import (
    ARMS,
    arms,
    control_plane,
    edge,
    eventually,
    make_bundle,
    replaced,
)
from tests.edge.ready import ASK, CHAT, Ready, run

PREFER = "x_route_preference"


def mixed_bundle(endpoint: str = "", policy: str = "chat"):
    """A policy under which the large arm scores best and the small one costs least."""
    bundle = make_bundle(endpoint=endpoint, policy=policy)
    weights = np.zeros((2, len(ARMS), bundle.schema.dimension))
    weights[0, :, 0] = [0.5, 0.7, 0.8]
    weights[1, :, 0] = [0.01, 0.05, 0.3]
    parts = ("score", "cost_usd")
    scorer = Mixed(ARMS, parts, weights, np.array([1.0, -1.0]), Exploration("greedy"))
    mixed = replaced(bundle, scorer=scorer, learner="multi_objective", golden=())
    found = tuple(mixed.distribution(read("Capital of France?"), ARMS).tolist())
    return replaced(mixed, golden=(Golden(read("Capital of France?"), ARMS, found),))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, {}),
        ("", {}),
        ("  ", {}),
        ("cost=0.7", {"preference.cost": 0.7}),
        (" cost = 0 ,latency_s=1e3", {"preference.cost": 0.0, "preference.latency_s": 1000.0}),
    ],
)
def test_a_header_is_read_as_factors(header, found):
    assert read_preference(header) == found


@pytest.mark.parametrize(
    "header",
    [
        "cost",
        "cost=",
        "=1",
        "cost=much",
        "cost=-1",
        "cost=1001",
        "cost=nan",
        "cost=inf",
        "cost=1,cost=2",
        "cost=1,,latency=2",
        "co\tst=1",
        f"{'c' * (MAX_NAME + 1)}=1",
        ",".join(f"p{i}=1" for i in range(MAX_PARTS + 1)),
    ],
)
def test_a_header_that_is_no_preference_is_refused_with_the_remedy(header):
    with pytest.raises(ProblemError) as error:
        read_preference(header)
    assert error.value.status == 422
    assert error.value.members["field"] == "x-route-preference"
    assert error.value.members["remedy"]


def test_a_chats_preference_moves_its_choice_and_stands_in_the_log(tmp_path):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            plane.publish(mixed_bundle(pool.url))
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                for header, served in (("cost=0", "large"), ("cost=10", "small"), ("", "medium")):
                    status, headers, _ = await client.send(CHAT, ASK, **{PREFER: header})
                    assert (status, headers["x-route-model"]) == (200, served)
                    assert float(headers["x-route-propensity"]) == 1.0
                await eventually(lambda: len(plane.decisions) == 3)
                logged = {row["action"]: row["context"] for row in plane.decisions}
                assert logged["large"]["preference.cost"] == 0.0
                assert logged["small"]["preference.cost"] == 10.0
                assert "preference.cost" not in logged["medium"]

    run(scenario())


def test_the_upstream_is_not_told_of_the_preference(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await at.client.send(CHAT, ASK, **{PREFER: "cost=3"})
            assert "x-route-preference" not in at.pool.headers[0]

    run(scenario())


def test_a_retry_follows_the_same_preference(tmp_path):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            plane.publish(mixed_bundle(pool.url))
            pool.behaviour = {"large": "500"}
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                status, headers, _ = await client.send(CHAT, ASK, **{PREFER: "cost=0"})
                assert (status, headers["x-route-model"]) == (200, "medium")
                await eventually(lambda: len(plane.decisions) == 2)
                assert [row["context"]["preference.cost"] for row in plane.decisions] == [0.0, 0.0]

    run(scenario())


@pytest.mark.parametrize("header", ["beauty=2", "cost=1,cost_usd=2", "(gate)=1"])
def test_a_chat_that_weighs_what_is_no_part_is_refused_by_field_and_remedy(tmp_path, header):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            plane.publish(mixed_bundle(pool.url))
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                status, problem = await client.post(CHAT, ASK, **{PREFER: header})
                assert (status, problem["field"]) == (422, "x-route-preference")
                assert "score, cost_usd" in problem["remedy"] or "one factor" in problem["remedy"]
                assert problem["value"]
            assert pool.models == []
            assert plane.decisions == []

    run(scenario())


def test_a_linear_policy_takes_no_notice_but_logs_what_was_asked(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            assert (await at.client.send(CHAT, ASK, **{PREFER: "beauty=2"}))[0] == 200
            await eventually(lambda: at.plane.decisions)
            (decision,) = at.plane.decisions
            assert decision["context"]["preference.beauty"] == 2.0
            plain = {k: v for k, v in decision["context"].items() if k != "preference.beauty"}
            spread = at.bundle.distribution(plain, decision["eligible"]).tolist()
            assert decision["distribution"] == spread

    run(scenario())


def test_a_request_that_names_its_model_is_passed_on_whatever_it_prefers(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            ask = {**ASK, "model": "medium"}
            assert (await at.client.send(CHAT, ask, **{PREFER: "beauty=2"}))[0] == 200

    run(scenario())


def test_decide_takes_a_preference_in_its_body(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            plane.publish(mixed_bundle(policy="tools"))
            async with edge(plane.url, tmp_path, policies="tools") as client:
                await client.ready()
                ask = {"policy": "tools", "context": {"price": 1.0}}
                for preference, served in (({"cost": 0}, "large"), ({"cost": 10}, "small")):
                    status, found = await client.post(
                        "/v1/decide", {**ask, "preference": preference}
                    )
                    assert (status, found["action"], found["propensity"]) == (200, served, 1.0)
                await eventually(lambda: len(plane.decisions) == 2)
                logged = sorted(row["context"]["preference.cost"] for row in plane.decisions)
                assert logged == [0, 10]

    run(scenario())


@pytest.mark.parametrize(
    ("preference", "field"),
    [
        ({"beauty": 2}, "context.preference.beauty"),
        ({"(gate)": 2}, "context.preference.(gate)"),
        ({"cost": -1}, "preference.cost"),
        ({"cost": 1001}, "preference.cost"),
        ({"": 1}, "preference."),
        ({"cost": "much"}, "preference"),
        ({f"p{i}": 1 for i in range(MAX_PARTS + 1)}, "preference"),
    ],
)
def test_decide_names_the_preference_that_it_refuses(tmp_path, preference, field):
    async def scenario():
        async with control_plane() as plane:
            plane.publish(mixed_bundle(policy="tools"))
            async with edge(plane.url, tmp_path, policies="tools") as client:
                await client.ready()
                ask = {"policy": "tools", "context": {"price": 1.0}, "preference": preference}
                status, problem = await client.post("/v1/decide", ask)
                assert status == 422
                assert problem["field"].startswith(field)
                assert problem["remedy"]

    run(scenario())
