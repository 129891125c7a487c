import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from edge.app import new_id, now
from learners.records import Arm
from tests.edge.doubles import (
    ANSWER,
    ARMS,
    arms,
    control_plane,
    edge,
    eventually,
    make_bundle,
    replaced,
    stream_events,
)
from tests.edge.ready import ASK, CHAT, STREAM, Ready, run


def test_a_routed_chat_is_relayed_untouched_with_its_decision_in_the_headers(tmp_path):
    async def scenario():
        async with Ready(
            tmp_path, environ={f"{name.upper()}_KEY": f"key-{name}" for name in ARMS}
        ) as at:
            status, headers, body = await at.client.send(
                CHAT, ASK, x_route_session_id="s1", x_route_episode_id="e1"
            )
            assert (status, body) == (200, ANSWER)
            assert headers["x-provider"] == "yes"
            assert "set-cookie" not in headers
            assert headers["x-route-policy"] == "chat@1"
            (outcome,) = await at.outcomes(1)
            (decision,) = at.plane.decisions
            assert decision["decision_id"] == headers["x-route-decision-id"]
            assert decision["action"] == headers["x-route-model"]
            assert decision["propensity"] == float(headers["x-route-propensity"])
            assert (decision["session_id"], decision["episode_id"]) == ("s1", "e1")
            assert at.pool.headers[0]["authorization"] == f"Bearer key-{decision['action']}"
            assert outcome["decision_id"] == decision["decision_id"]
            assert outcome["response_id"] == "chatcmpl-1"
            latency_s = outcome["values"].pop("latency_s")
            assert 0 < latency_s < 10
            assert outcome["values"] == {
                "input_tokens": 10,
                "output_tokens": 20,
                "cost_usd": pytest.approx(50e-6),
                "error": 0,
            }

    run(scenario())


def test_the_log_holds_features_and_never_the_prompt(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await at.client.send(CHAT, ASK)
            await at.outcomes(1)
            (decision,) = at.plane.decisions
            assert "France" not in json.dumps([at.plane.decisions, at.plane.outcomes])
            found = at.bundle.distribution(decision["context"], decision["eligible"]).tolist()
            assert decision["distribution"] == found
            assert decision["edge_id"] == "edge-1"

    run(scenario())


def test_only_the_model_of_a_request_is_rewritten(tmp_path):
    body = (
        b'{ "temperature":1.0,"model":"route/chat", "seed":12345678901234567890, '
        b'"messages":[{"role": "user","content":"\\u00e9"}] }'
    )

    async def scenario():
        async with Ready(tmp_path) as at:
            assert (await at.client.send(CHAT, body))[0] == 200
            sent, model = at.pool.bodies[0], at.pool.models[0]
            assert sent == (
                b'{"temperature":1.0,"model":"%b","seed":12345678901234567890,'
                b'"messages":[{"role": "user","content":"\\u00e9"}]}' % model.encode()
            )

    run(scenario())


def test_a_clients_own_credential_never_reaches_an_arm(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await at.client.send(CHAT, ASK, Authorization="Bearer mine", Cookie="a=b")
            assert "authorization" not in at.pool.headers[0]
            assert "cookie" not in at.pool.headers[0]

    run(scenario())


def test_a_bundle_cannot_send_the_edges_own_secrets_to_an_arm(tmp_path):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            bundle = make_bundle(endpoint=pool.url)
            name = "POINTSMAN_EDGE_API_KEY"
            greedy = tuple(Arm(a.name, a.model, a.endpoint, a.card, name) for a in bundle.arms)
            plane.publish(replaced(bundle, arms=greedy))
            async with edge(plane.url, tmp_path, environ={name: "pm_edge_secret"}) as client:
                await client.ready()
                assert (await client.send(CHAT, ASK))[0] == 200
            assert "authorization" not in pool.headers[0]

    run(scenario())


def test_openais_own_client_is_served_streaming_and_not(tmp_path):
    async def scenario():
        async with (
            Ready(tmp_path) as at,
            openai.AsyncOpenAI(
                base_url=f"{at.client.url}/v1", api_key="unused", max_retries=0
            ) as client,
        ):
            messages = [ChatCompletionUserMessageParam(role="user", content="Capital of France?")]
            raw = await client.chat.completions.with_raw_response.create(
                model="route/chat", messages=messages
            )
            assert raw.parse().choices[0].message.content == "Paris"
            assert raw.headers["x-route-decision-id"]
            stream = await client.chat.completions.create(
                model="route/chat", messages=messages, stream=True
            )
            text = [c.choices[0].delta.content or "" async for c in stream]
            assert "".join(text) == "Paris"
            names = [model.id async for model in await client.models.list()]
            assert names == ["route/chat", "small", "medium", "large"]
            with pytest.raises(openai.NotFoundError) as caught:
                await client.chat.completions.create(model="gpt-0", messages=messages)
            assert caught.value.code == "model_not_found"

    run(scenario())


@pytest.mark.parametrize("model", ["medium", "medium-model"])
def test_another_model_of_the_pool_is_passed_through_without_a_decision(tmp_path, model):
    async def scenario():
        async with Ready(tmp_path) as at:
            status, headers, body = await at.client.send(CHAT, {**ASK, "model": model})
            assert (status, body) == (200, ANSWER)
            assert at.pool.models == ["medium-model"]
            assert headers["x-route-model"] == "medium"
            assert "x-route-decision-id" not in headers
            assert "pointsman_edge_spool_lines 0.0" in (await at.client.get("/metrics"))[1]
            assert at.plane.decisions == []

    run(scenario())


@pytest.mark.parametrize("how", ["500", "503", "429", "401", "302", "307", "empty"])
@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
def test_a_failed_arm_is_logged_and_a_second_decision_among_the_rest_is_served(tmp_path, how, ask):
    async def scenario():
        async with Ready(tmp_path, retries=2) as at:
            at.fail(how, "small", "medium")
            for _ in range(12):
                status, headers, _ = await at.client.send(CHAT, ask)
                assert status == 200
                assert headers["x-route-model"] == "large"
            await eventually(lambda: len(at.plane.outcomes) == len(at.plane.decisions) >= 12)
            outcomes = {row["decision_id"]: row["values"] for row in at.plane.outcomes}
            rows = {row["decision_id"]: row for row in at.plane.decisions}
            retried = [row for row in rows.values() if row["mode"] == "retry"]
            assert retried
            for row in rows.values():
                assert outcomes[row["decision_id"]]["error"] == (row["action"] != "large")
                assert outcomes[row["decision_id"]]["latency_s"] > 0
            for row in retried:
                before = rows[row["retry_of"]]
                rest = [name for name in before["eligible"] if name != before["action"]]
                exact = at.bundle.distribution(row["context"], rest)
                assert row["eligible"] == rest
                assert row["distribution"] == [exact[at.bundle.index[name]] for name in rest]
                assert row["propensity"] == exact[at.bundle.index[row["action"]]]

    run(scenario())


@pytest.mark.parametrize("how", ["break_at_once", "hang"])
def test_a_stream_that_dies_before_its_first_byte_is_retried(tmp_path, how):
    async def scenario():
        async with Ready(tmp_path, silence_timeout_s=0.2) as at:
            at.fail(how, "small", "medium")
            status, headers, body = await at.client.send(CHAT, STREAM)
            assert (status, headers["x-route-model"]) == (200, "large")
            assert body == b"".join(stream_events(usage=False))

    run(scenario())


def test_an_arm_that_cannot_be_reached_is_retried_on_another(tmp_path, unused_port):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            bundle = make_bundle(endpoint=pool.url)
            nowhere = f"http://127.0.0.1:{unused_port}/v1"
            gone = [Arm(a.name, a.model, nowhere, a.card) for a in bundle.arms[:2]]
            plane.publish(replaced(bundle, arms=(*gone, bundle.arms[2])))
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                _, headers, body = await client.send(CHAT, ASK)
                assert (headers["x-route-model"], body) == ("large", ANSWER)

    run(scenario())


def test_a_retry_does_not_carry_the_clients_idempotency_key_to_another_arm(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("500", *ARMS)
            await at.client.send(CHAT, ASK, Idempotency_Key="k1", X_Request_Id="r1")
            keys = [headers.get("idempotency-key") for headers in at.pool.headers]
            assert keys == ["k1", None, None]
            assert [headers["x-request-id"] for headers in at.pool.headers] == ["r1"] * 3

    run(scenario())


def test_when_all_arms_fail_the_last_decision_is_named(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("500", *ARMS)
            status, headers, _ = await at.client.send(CHAT, ASK)
            assert (status, "retry-after" in headers) == (502, False)
            await at.outcomes(3)
            last = at.plane.decisions[-1]
            assert headers["x-route-decision-id"] == last["decision_id"]
            assert headers["x-route-model"] == last["action"]
            assert float(headers["x-route-propensity"]) == last["propensity"]

    run(scenario())


@pytest.mark.parametrize(
    ("how", "status", "retry_after"),
    [
        (("429", "429 after 7", "429 after 3"), 429, "7"),
        (("503", "429 after 7", "503 after 999999"), 503, "300"),
        (("429", "429", "429"), 429, None),
        (("429 after 7", "500", "503"), 502, None),
        (("429 after 7", "empty", "429"), 502, None),
    ],
)
def test_arms_that_are_all_busy_tell_the_client_when_to_come_back(
    tmp_path, how, status, retry_after
):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.pool.behaviour = dict(zip(ARMS, how, strict=True))
            found, headers, _ = await at.client.send(CHAT, ASK)
            assert (found, headers.get("retry-after")) == (status, retry_after)
            at.fail("429 after 5", "medium")
            found, headers, _ = await at.client.send(CHAT, {**ASK, "model": "medium"})
            assert (found, headers["retry-after"]) == (429, "5")
            assert headers["x-route-model"] == "medium"

    run(scenario())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"model":"route/chat","messages":%b}'),
        (CHAT, b'{"model":"route/chat","messages":{"a":%b}}'),
        ("/v1/decide", b'{"policy":"chat","input":%b}'),
        ("/v1/decide", b'{"policy":"chat","context":{"price":%b}}'),
    ],
)
def test_json_of_any_depth_is_no_failure_of_the_edge(tmp_path, path, body):
    async def scenario():
        async with Ready(tmp_path) as at:
            # Around the interpreter's limit what can be read may still be too deep to be shown.
            for depth in range(850, 1010):
                deep = b"[" * depth + b"]" * depth
                status, problem = await at.client.post(path, body % deep)
                assert status in {200, 400, 422}, (depth, problem)
            for depth in (2000, 100_000):
                status, problem = await at.client.post(path, body % (b"[" * depth + b"]" * depth))
                assert (status, problem["error"]["code"]) == (400, "not_json")
                assert "too deeply" in problem["detail"]

    run(scenario())


def test_when_all_arms_fail_the_client_is_told_which(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("500", "small", "medium", "large")
            status, problem = await at.client.post(CHAT, ASK)
            assert status == 502
            assert sorted(problem["value"]) == ["large", "medium", "small"]
            assert problem["error"]["code"] == "upstream_failed"
            outcomes = await at.outcomes(3)
            assert [row["values"]["error"] for row in outcomes] == [1, 1, 1]

    run(scenario())


def test_retries_are_bounded(tmp_path):
    async def scenario():
        async with Ready(tmp_path, retries=1) as at:
            at.fail("500", "small", "medium", "large")
            assert (await at.client.post(CHAT, ASK))[0] == 502
            assert len(at.pool.models) == 2

    run(scenario())


def test_a_refusal_of_the_request_is_relayed_and_not_retried(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("400", "small", "medium", "large")
            status, body = await at.client.post(CHAT, ASK)
            assert (status, body) == (400, {"error": {"message": "no"}})
            (outcome,) = await at.outcomes(1)
            assert outcome["values"]["error"] == 1
            assert len(at.pool.models) == 1

    run(scenario())


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({"messages": ASK["messages"]}, 422, "model"),
        ({"model": 3, "messages": ASK["messages"]}, 422, "model"),
        ({"model": "route/chat"}, 422, "messages"),
        ({"model": "route/chat", "messages": []}, 422, "messages"),
        ({"model": "route/other", "messages": ASK["messages"]}, 404, "policy"),
        ({"model": "gpt-0", "messages": ASK["messages"]}, 404, "model"),
    ],
)
def test_a_wrong_chat_request_is_explained_in_both_forms(tmp_path, body, status, field):
    async def scenario():
        async with Ready(tmp_path) as at:
            found, problem = await at.client.post(CHAT, body)
            assert (found, problem["status"]) == (status, status)
            assert problem.get("field") == field
            assert problem["error"]["message"] == problem["detail"]

    run(scenario())


def test_a_body_past_the_limit_is_refused(tmp_path):
    async def scenario():
        async with Ready(tmp_path, max_body_bytes=2048) as at:
            messages = [{"role": "user", "content": "x" * 4096}]
            status, problem = await at.client.post(CHAT, {**ASK, "messages": messages})
            assert (status, problem["error"]["code"]) == (413, "body_too_large")

    run(scenario())


def test_requests_past_the_limit_are_told_to_come_back(tmp_path):
    async def scenario():
        async with Ready(tmp_path, max_requests=1) as at:
            at.fail("hang", "small", "medium", "large")
            hanging = asyncio.create_task(at.client.send(CHAT, ASK))
            await eventually(lambda: at.pool.models)
            status, headers, _ = await at.client.send(CHAT, ASK)
            assert (status, headers["retry-after"]) == (503, "1")
            assert (await at.client.get("/healthz"))[0] == 200
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)

    run(scenario())


def test_decision_ids_are_new_for_each_decision():
    at = now()
    assert len({new_id(at) for _ in range(1000)}) == 1000
