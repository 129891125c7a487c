import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge import ledger
from edge.app import new_id, now
from learners.exploration import Exploration
from tests.edge.doubles import control_plane, edge, eventually, make_bundle

SOFT = Exploration("softmax", floor=0.1, temperature=2.0)
CONTEXT = {"price": 1.5}
ASK: dict[str, Any] = {"policy": "tools", "context": CONTEXT}


@asynccontextmanager
async def ready(tmp_path, **changes):
    async with control_plane() as plane:
        plane.publish(make_bundle(policy="tools", serial=7, exploration=SOFT))
        async with edge(plane.url, tmp_path, policies="tools", **changes) as client:
            await client.ready()
            yield plane, client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_a_decision_says_what_was_chosen_how_likely_it_was_and_until_when_it_learns(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            status, found = await client.post("/v1/decide", {**ASK, "session_id": "s1"})
            assert status == 200
            assert found["model"] == f"{found['action']}-model"
            spread = {row["action"]: row["probability"] for row in found["distribution"]}
            assert sum(spread.values()) == pytest.approx(1)
            assert found["propensity"] == spread[found["action"]]
            bundle = make_bundle(policy="tools", serial=7, exploration=SOFT)
            assert list(spread.values()) == list(bundle.distribution(ASK["context"], [*spread]))
            assert found["policy"]["version"] == found["policy"]["serial"] == 7
            assert found["mode"] == "policy"
            await eventually(lambda: plane.decisions)
            (row,) = plane.decisions
            assert row["decision_id"] == found["decision_id"]
            assert row["digest"] == found["policy"]["digest"]
            assert row["context"] == {"price": 1.5}
            assert row["session_id"] == "s1"
            deadline = datetime.fromisoformat(found["reward_deadline"])
            assert deadline - datetime.fromisoformat(row["at"]) == timedelta(hours=1)

    run(scenario())


def test_a_replayed_decision_gets_the_same_answer_and_is_logged_once(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            ask = {**ASK, "decision_id": new_id(now())}
            first = await client.post("/v1/decide", ask)
            # Other keys' order, other capitals, and even another bundle: still the same question.
            plane.publish(make_bundle(policy="tools", serial=8))
            await eventually(lambda: plane.statuses[-1]["active"] == {"tools": 8})
            again = {"decision_id": ask["decision_id"].upper(), "context": {"price": 1.5}}
            assert await client.post("/v1/decide", {**again, "policy": "tools"}) == first
            await client.post("/v1/decide", ASK)
            await eventually(lambda: len(plane.decisions) == 2)
            assert len({row["decision_id"] for row in plane.decisions}) == 2

    run(scenario())


def test_a_decision_id_gives_the_same_answer_after_a_restart_with_the_same_bundle(tmp_path):
    async def scenario():
        ask = {**ASK, "decision_id": new_id(now())}
        answers: list[dict[str, Any]] = []
        for _ in range(2):
            async with control_plane() as plane:
                bundle = make_bundle(policy="tools", serial=7, exploration=SOFT)
                if not answers:
                    plane.publish(bundle)
                async with edge(plane.url, tmp_path, policies="tools") as client:
                    await client.ready()
                    _, answer = await client.post("/v1/decide", ask)
                    del answer["reward_deadline"]
                    answers.append(answer)
        assert answers[0] == answers[1]

    run(scenario())


def test_a_decision_id_of_another_question_is_refused(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (_, client):
            ask = {**ASK, "decision_id": new_id(now())}
            assert (await client.post("/v1/decide", ask))[0] == 200
            status, problem = await client.post("/v1/decide", {**ask, "context": {"price": 2}})
            assert (status, problem["field"]) == (409, "decision_id")

    run(scenario())


def test_excluding_actions_changes_the_probabilities(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (_, client):
            bundle = make_bundle(policy="tools", serial=7, exploration=SOFT)
            for limits, left in (
                ({"excluded_actions": ["medium"]}, ["small", "large"]),
                ({"actions": ["medium", "small"]}, ["small", "medium"]),
                ({"actions": ["large"]}, ["large"]),
            ):
                _, found = await client.post("/v1/decide", {**ASK, **limits})
                exact = bundle.distribution(ASK["context"], left)
                assert found["distribution"] == [
                    {"action": name, "probability": exact[bundle.index[name]]} for name in left
                ]

    run(scenario())


def test_text_gives_the_same_features_as_a_chat_and_given_features_stand_over_them(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            text = "Capital of France?"
            messages = [{"role": "user", "content": text}]
            await client.post("/v1/decide", {"policy": "tools", "input": text})
            await client.post("/v1/decide", {"policy": "tools", "input": messages})
            both = {"policy": "tools", "input": text, "context": {"chars": 9, "price": None}}
            await client.post("/v1/decide", both)
            await eventually(lambda: len(plane.decisions) == 3)
            one, two, three = (row["context"] for row in plane.decisions)
            assert one == two
            assert one["turns"] > 0
            assert three == {**one, "chars": 9}

    run(scenario())


def test_a_deferred_decision_is_logged_when_it_is_activated_and_once(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            _, used = await client.post("/v1/decide", {**ASK, "defer_activation": True})
            await client.post("/v1/decide", {**ASK, "defer_activation": True})
            _, at_once = await client.post("/v1/decide", ASK)
            await eventually(lambda: plane.decisions)
            assert [row["decision_id"] for row in plane.decisions] == [at_once["decision_id"]]
            path = f"/v1/decisions/{used['decision_id']}/activate"
            assert (await client.send(path, b""))[0] == 204
            assert (await client.send(path, b""))[0] == 204
            await eventually(lambda: len(plane.decisions) == 2)
            assert plane.decisions[1]["decision_id"] == used["decision_id"]
            status, problem = await client.post(f"/v1/decisions/{new_id(now())}/activate", {})
            assert (status, problem["field"]) == (404, "decision_id")
        assert len(plane.decisions) == 2

    run(scenario())


def test_deferred_decisions_are_bounded_and_expire(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_DEFERRED_BYTES", 1200)  # two lines, and a half
    clock = [0.0]
    monkeypatch.setattr(ledger, "monotonic", lambda: clock[0])

    async def scenario():
        async with ready(tmp_path) as (_, client):
            ask = {**ASK, "defer_activation": True}
            _, first = await client.post("/v1/decide", ask)
            assert (await client.post("/v1/decide", ask))[0] == 200
            status, headers, _ = await client.send("/v1/decide", ask)
            assert (status, headers["retry-after"]) == (503, "10")
            clock[0] = ledger.DEFERRED_S + 1
            assert (await client.post("/v1/decide", ask))[0] == 200
            path = f"/v1/decisions/{first['decision_id']}/activate"
            assert (await client.post(path, {}))[0] == 404

    run(scenario())


def test_remembered_answers_are_bounded_in_bytes_and_the_oldest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_RECENT_BYTES", 2000)  # some three answers

    async def scenario():
        async with ready(tmp_path) as (plane, client):
            asks = [{**ASK, "decision_id": new_id(now())} for _ in range(10)]
            first = [await client.post("/v1/decide", ask) for ask in asks]
            plane.publish(make_bundle(policy="tools", serial=8, exploration=SOFT))
            await eventually(lambda: plane.statuses[-1]["active"] == {"tools": 8})
            # Those remembered are answered as by the bundle before.
            again = [await client.post("/v1/decide", ask) for ask in reversed(asks)]
            serials = [found["policy"]["serial"] for _, found in again]
            assert serials[0] == 7
            assert again[0] == first[-1]
            kept = serials.count(7)
            assert 1 <= kept < 5
            assert serials == [7] * kept + [8] * (10 - kept)

    run(scenario())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": None}, "policy"),
        ({"context": None}, "context"),
        ({"context": [1]}, "context"),
        ({"colour": "red"}, "colour"),
        ({"context": {"price": "cheap"}}, "context.price"),
        ({"context": {"price": {"a": 1}}}, "context.price"),
        ({"context": {"price": 10**30}}, "context.price"),
        ({"context": {"terms": [1, 2]}}, "context.terms"),
        ({"context": {"note": "x" * 2000}}, "context.note"),
        ({"context": {f"f{i}": 1 for i in range(300)}}, "context"),
        ({"context": {"long": [0.123456789] * 50_000}}, "context"),
        ({"input": 3}, "input"),
        ({"actions": ["huge"]}, "actions"),
        ({"actions": []}, "actions"),
        ({"excluded_actions": ["small", "medium", "large"]}, "excluded_actions"),
        ({"decision_id": "4"}, "decision_id"),
        ({"decision_id": "9a5d7b0e-4b5c-4c57-8f5e-2d5d1b6f4d3a"}, "decision_id"),
        ({"decision_id": new_id(now() + timedelta(hours=2))}, "decision_id"),
        ({"decision_id": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, "decision_id"),
        ({"context": {"note": "a\x00"}}, "context.note"),
        ({"context": {"a\x00": 1}}, "context"),
        ({"context": {"terms": [True] * 64}}, "context.terms"),
        ({"session_id": ""}, "session_id"),
        ({"episode_id": "x" * 200}, "episode_id"),
        ({"defer_activation": "yes"}, "defer_activation"),
    ],
)
def test_a_wrong_request_is_told_the_field_the_value_and_the_remedy(tmp_path, change, field):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            body = {key: value for key, value in {**ASK, **change}.items() if value is not None}
            status, problem = await client.post("/v1/decide", body)
            assert (status, problem["field"]) == (422, field), problem
            assert problem["remedy"]
            assert "value" in problem
            assert plane.decisions == []

    run(scenario())


def test_a_missing_policy_is_named(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (_, client):
            assert (await client.post("/v1/decide", b"no json"))[0] == 400
            status, problem = await client.post("/v1/decide", {**ASK, "policy": "other"})
            assert (status, problem["field"]) == (404, "policy")
            assert "tools" in problem["remedy"]
            assert (await client.post("/v1/other", {}))[0] == 404

    run(scenario())


def test_without_any_bundle_the_client_is_told_to_come_back(tmp_path):
    async def scenario():
        async with control_plane() as plane, edge(plane.url, tmp_path, policies="tools") as client:
            status, headers, _ = await client.send("/v1/decide", ASK)
            assert (status, headers["retry-after"]) == (503, "2")
            assert (await client.get("/readyz"))[0] == 503
            assert (await client.get("/healthz"))[0] == 200

    run(scenario())


def test_an_expired_bundle_serves_the_fallback_arm_and_says_so(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            soon = make_bundle(policy="tools", expires_in=timedelta(seconds=0.5))
            plane.publish(soon)
            async with edge(plane.url, tmp_path, policies="tools") as client:
                await client.ready()
                await eventually(lambda: datetime.now(UTC) > soon.expires_at)
                _, found = await client.post("/v1/decide", ASK)
                assert (found["mode"], found["action"]) == ("fallback", "small")
                assert found["propensity"] == 1.0
                excluded = {**ASK, "excluded_actions": ["small"]}
                assert (await client.post("/v1/decide", excluded))[0] == 422
                await eventually(lambda: plane.decisions)
                assert plane.decisions[0]["mode"] == "fallback"

    run(scenario())


def test_client_keys_are_asked_for_everywhere_but_at_the_probes(tmp_path):
    async def scenario():
        async with ready(tmp_path, client_keys="one, two") as (_, client):
            for given in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
                status, headers, _ = await client.send("/v1/decide", ASK, **given)
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
            for key in ("one", "two"):
                status, _ = await client.post("/v1/decide", ASK, Authorization=f"Bearer {key}")
                assert status == 200
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await client.get(path))[0] == 200
            assert (await client.get("/v1/models"))[0] == 401

    run(scenario())
