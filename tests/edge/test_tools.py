"""An edge with models that narrows the tools of a chat, between a real client and an arm."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
import structlog

from bench import minilm
from edge.settings import MAX_TOOLS
from kernels.tools_file import write
from learners.lineup import Dispatch
from tests.edge.doubles import ARMS, arms, control_plane, edge, eventually, replaced
from tests.edge.lineups import staged
from tests.edge.naming import naming
from tests.edge.ready import ASK, CHAT, Ready, run
from tests.edge.toolkit import DESCRIPTIONS, RAIN, SHARES, asking, described, drawn, tool

TOOLS = "x_route_tools"
PATIENT = {"static_budget_s": 9, "encoder_budget_s": 9, "reask_budget_s": 9}


@pytest.fixture(scope="module")
def models() -> Path:
    pytest.importorskip("onnxruntime")
    return minilm.root()


@pytest.fixture(scope="module")
def tools_file(models, tmp_path_factory) -> Path:
    return described(models, tmp_path_factory.mktemp("tools") / "t.safetensors", DESCRIPTIONS)


@pytest.fixture
def ready(tmp_path, models, tools_file):
    """Makes an edge with models and tools."""

    def make(**changes):
        given = {"models": models, "tools_file": tools_file, **PATIENT, **changes}
        return Ready(tmp_path, **given)

    return make


def sent(at, place=-1):
    """The names of the tools that an arm was sent."""
    return [one["function"]["name"] for one in json.loads(at.pool.bodies[place])["tools"]]


async def count_of(at, metric, **labels):
    text = (await at.client.get("/metrics"))[1]
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    found = re.search(rf"^pointsman_edge_{metric}(?:{{{shown}}})? (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_openais_own_client_has_its_tools_narrowed_streaming_and_not(ready):
    async def scenario():
        async with (
            ready() as at,
            openai.AsyncOpenAI(
                base_url=f"{at.client.url}/v1", api_key="unused", max_retries=0
            ) as client,
        ):
            chat = client.chat.completions.with_raw_response
            for text, stream, first in ((RAIN, False, "weather"), (SHARES, True, "stocks")):
                given: Any = {
                    "model": "route/chat",
                    "messages": [{"role": "user", "content": text}],
                    "tools": [tool(name) for name in DESCRIPTIONS],
                    "stream": stream,
                    "extra_headers": {"x-route-tools": "3"},
                }
                raw: Any = await chat.create(**given)
                if stream:
                    words = [c.choices[0].delta.content or "" async for c in raw.parse()]
                    assert "".join(words) == "Paris"
                else:
                    assert raw.parse().choices[0].message.content == "Paris"
                assert raw.headers["x-route-tools"] == "3/10;narrowed"
                assert len(sent(at)) == 3
                assert first in sent(at)
                assert sent(at) == [name for name in DESCRIPTIONS if name in sent(at)]
            assert await count_of(at, "tools_asked_total", policy="chat", result="narrowed") == 2
            assert await count_of(at, "tools_left_out_total", policy="chat") == 14

    run(scenario())


def test_what_is_kept_keeps_its_bytes_and_all_else_too(ready):
    kept = b'{"type": "function",  "function":{"name":"weather", "own":1.0,"x":"\\u00e9"}}'
    other = json.dumps(tool("chess")).encode()
    body = (
        b'{ "seed":12345678901234567890,"tools":[ %b , %b,%b ],"model":"route/chat", '
        b'"messages":[{"role": "user","content":"%b"}] }'
    ) % (other, kept, json.dumps(tool("music")).encode(), RAIN.encode())

    async def scenario():
        async with ready() as at:
            status, headers, _ = await at.client.send(CHAT, body, x_route_tools="1")
            assert (status, headers["x-route-tools"]) == (200, "1/3;narrowed")
            assert at.pool.bodies[0] == (
                b'{"seed":12345678901234567890,"tools":[%b],"model":"%b",'
                b'"messages":[{"role": "user","content":"%b"}]}'
            ) % (kept, at.pool.models[0].encode(), RAIN.encode())
            await at.client.send(CHAT, body, x_route_tools="3")
            assert b'"tools":[ %b , %b,' % (other, kept) in at.pool.bodies[1]

    run(scenario())


def test_tools_that_must_be_there_are_kept_beside_those_that_suit(ready):
    function = {"name": "music", "arguments": "{}"}
    called = [
        {"role": "user", "content": "Play something."},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "assistant", "content": None, "function_call": {"name": "parcels"}},
        {"role": "function", "name": "trains", "content": "late"},
        {"role": "user", "content": RAIN},
    ]
    forced = {"type": "function", "function": {"name": "chess"}}
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [forced, {"type": "function"}, 3]},
    }
    odd = [{"type": "web_search"}, {"type": "function", "function": {"name": 7}}, 5, tool("new")]
    custom = {"type": "custom", "custom": {"name": "doctors"}}

    async def scenario():
        async with ready() as at:

            async def names(**more):
                await at.client.send(CHAT, asking(**more), x_route_tools="1")
                return sent(at)

            assert await names() == ["weather"]
            assert await names(tool_choice=forced) == ["weather", "chess"]
            assert await names(tool_choice=allowed) == ["weather", "chess"]
            for plain in ("auto", "required", None, 3, {"type": "function"}):
                assert await names(tool_choice=plain) == ["weather"]
            kept = await names(messages=called)
            assert kept == ["weather", "trains", "music", "parcels"]
            body = asking(tools=[*odd, tool("stocks"), tool("weather"), custom])
            _, headers, _ = await at.client.send(CHAT, body, x_route_tools="1")
            assert headers["x-route-tools"] == "5/7;narrowed"
            assert json.loads(at.pool.bodies[-1])["tools"] == [*odd, tool("weather")]
            choice = {"type": "custom", "custom": {"name": "doctors"}}
            await at.client.send(CHAT, {**body, "tool_choice": choice}, x_route_tools="1")
            assert json.loads(at.pool.bodies[-1])["tools"] == [*odd, tool("weather"), custom]

    run(scenario())


def test_the_last_user_turn_decides_and_stays_so_while_tools_answer(ready):
    function = {"name": "weather", "arguments": "{}"}
    loop = [
        {"role": "user", "content": SHARES},
        {"role": "assistant", "content": "100 crowns."},
        {"role": "user", "content": RAIN},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "stock exchange shares funds prices"},
    ]

    async def scenario():
        async with ready() as at:
            await at.client.send(CHAT, asking(messages=loop[:1]), x_route_tools="2")
            assert "stocks" in sent(at)
            await at.client.send(CHAT, asking(messages=loop[:3]), x_route_tools="2")
            turn = sent(at)
            assert "weather" in turn
            assert "stocks" not in turn
            await at.client.send(CHAT, asking(messages=loop), x_route_tools="2")
            assert sent(at) == turn

    run(scenario())


def test_a_number_of_the_settings_holds_where_a_request_gives_none(ready):
    async def scenario():
        async with ready(tools_kept=2) as at:
            for header, kept in (("", 2), (" 4 ", 4), ("0", 10), ("0001", 1)):
                _, headers, _ = await at.client.send(CHAT, asking(), x_route_tools=header)
                assert len(sent(at)) == kept
                assert ("x-route-tools" in headers) == (header != "0")
            _, headers, _ = await at.client.send(CHAT, ASK)
            assert "x-route-tools" not in headers
            assert b"tools" not in at.pool.bodies[-1]

    run(scenario())


def test_without_the_header_or_a_number_all_tools_are_passed_on(ready):
    async def scenario():
        async with ready() as at:
            _, headers, _ = await at.client.send(CHAT, asking())
            assert "x-route-tools" not in headers
            assert sent(at) == list(DESCRIPTIONS)
            assert "tools_asked_total{" not in (await at.client.get("/metrics"))[1]

    run(scenario())


@pytest.mark.parametrize("header", ["many", "-1", "2.5", "1e2", "٣", "99999", str(MAX_TOOLS + 1)])
def test_a_header_that_is_no_number_of_tools_is_refused_with_the_remedy(tmp_path, header):
    async def scenario():
        async with Ready(tmp_path) as at:
            status, problem = await at.client.post(CHAT, asking(), x_route_tools=header)
            assert (status, problem["field"]) == (422, "x-route-tools")
            assert problem["value"] == repr(header)
            assert "from 1 to 1024, or 0 to pass on all" in problem["remedy"]
            assert at.pool.bodies == []

    run(scenario())


def test_a_request_whose_tools_are_few_or_too_many_keeps_them_all(ready):
    crowd = [tool(f"tool-{i}") for i in range(MAX_TOOLS)]

    async def scenario():
        async with ready() as at:
            for body, header, said in (
                (asking(), "10", "10/10;few"),
                (asking(tools=crowd), "3", f"{MAX_TOOLS}/{MAX_TOOLS};few"),
                (
                    asking(tools=[*crowd, tool("weather")]),
                    "3",
                    f"{MAX_TOOLS + 1}/{MAX_TOOLS + 1};many",
                ),
            ):
                _, headers, _ = await at.client.send(CHAT, body, x_route_tools=header)
                assert headers["x-route-tools"] == said
                assert json.loads(at.pool.bodies[-1])["tools"] == body["tools"]
            odds: list[object] = [[], {}, None, "weather", 3]
            for odd in odds:
                status, headers, _ = await at.client.send(
                    CHAT, asking(tools=odd), x_route_tools="2"
                )
                assert status == 200
                assert "x-route-tools" not in headers
                assert json.loads(at.pool.bodies[-1])["tools"] == odd
            assert await count_of(at, "tools_asked_total", policy="chat", result="many") == 1

    run(scenario())


def test_an_edge_without_models_or_without_a_file_passes_all_tools_on(tmp_path, tools_file):
    async def scenario():
        for changes, why in (({}, "no_file"), ({"tools_file": tools_file}, "no_models")):
            async with Ready(tmp_path / why, **changes) as at:
                status, headers, _ = await at.client.send(CHAT, asking(), x_route_tools="2")
                assert (status, headers["x-route-tools"]) == (200, f"10/10;{why}")
                assert sent(at) == list(DESCRIPTIONS)
                assert await count_of(at, "tools_asked_total", policy="chat", result=why) == 1

    run(scenario())


def test_an_embedding_that_comes_too_late_leaves_all_tools_where_they_are(ready):
    async def scenario():
        async with ready(encoder_budget_s=0) as at:
            status, headers, _ = await at.client.send(CHAT, asking(), x_route_tools="2")
            assert (status, headers["x-route-tools"]) == (200, "10/10;no_embedding")
            assert sent(at) == list(DESCRIPTIONS)
            assert await count_of(at, "signals_late_total", tier="encoder") == 1

    run(scenario())


@pytest.mark.parametrize("asks", [False, True], ids=["without", "with"])
def test_a_decision_is_the_same_whether_tools_are_narrowed_or_not(
    tmp_path, models, tools_file, asks
):
    """A policy that asks for the embedding has it in its contexts, any other has it not."""
    row = {"name": "embedding", "kind": "vector", "size": 384}
    talk = [{"role": "user", "content": SHARES}, {"role": "user", "content": RAIN}]

    async def scenario():
        async with control_plane() as plane, arms() as pool:
            made = naming(*([row] if asks else []))
            placed = tuple(replaced(arm, endpoint=pool.url) for arm in made.arms)
            plane.publish(replaced(made, arms=placed))
            given = {"models": models, "tools_file": tools_file, **PATIENT}
            async with edge(plane.url, tmp_path, **given) as client:
                await client.ready()
                for header in ("0", "2"):
                    await client.send(CHAT, asking(messages=talk), x_route_tools=header)
                await eventually(lambda: len(plane.decisions) >= 2)
            # At its end an edge sends again what it was not told to have arrived.
            contexts = {row["decision_id"]: row["context"] for row in plane.decisions}
            one, two = contexts.values()
            assert one == two
            assert [len(json.loads(body)["tools"]) for body in pool.bodies] == [10, 2]
            assert ("embedding" in one) == ("reask" in one) == asks

    run(scenario())


def test_a_retry_and_a_shadows_arm_get_the_narrowed_chat(ready):
    async def scenario():
        async with ready() as at:
            at.fail("500", "small", "medium")
            dispatch = Dispatch(share=1.0, usd_per_hour=100.0, max_in_flight=8)
            at.plane.publish(
                staged(endpoint=at.pool.url, serial=2, shadows=(7,), dispatch=dispatch)
            )
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == 2)
            for _ in range(12):
                status, headers, _ = await at.client.send(CHAT, asking(), x_route_tools="2")
                assert (status, headers["x-route-tools"]) == (200, "2/10;narrowed")
            await eventually(lambda: "shadow" in {row["mode"] for row in at.plane.decisions})
            assert "retry" in {row["mode"] for row in at.plane.decisions}
            assert len(at.pool.bodies) > 12
            assert all(len(sent(at, place)) == 2 for place in range(len(at.pool.bodies)))
            at.fail("500", *ARMS)
            status, headers, _ = await at.client.send(CHAT, asking(), x_route_tools="2")
            assert (status, headers["x-route-tools"]) == (502, "2/10;narrowed")

    run(scenario())


def test_a_request_that_names_its_model_keeps_all_its_tools(ready):
    async def scenario():
        async with ready(tools_kept=2) as at:
            _, headers, _ = await at.client.send(CHAT, asking(model="medium"), x_route_tools="2")
            assert "x-route-tools" not in headers
            assert sent(at) == list(DESCRIPTIONS)

    run(scenario())


def test_a_file_that_changes_is_read_again_and_one_of_another_encoder_is_not(
    ready, models, tmp_path
):
    path = described(models, tmp_path / "t.safetensors", {"weather": DESCRIPTIONS["weather"]})

    async def scenario():
        async with ready(tools_file=path, poll_wait_s=0) as at:

            async def said():
                return (await at.client.send(CHAT, asking(), x_route_tools="2"))[1]["x-route-tools"]

            assert await said() == "10/10;few"
            described(models, path, DESCRIPTIONS)
            await eventually(lambda: _is(said, "2/10;narrowed"))
            with structlog.testing.capture_logs() as logs:
                write(path, drawn(tuple(DESCRIPTIONS), size=384))
                await eventually(lambda: any(row["event"] == "tools.refused" for row in logs))
            (row,) = [row for row in logs if row["event"] == "tools.refused"]
            assert "encoder fake:01, and this edge runs minilm-l6-v2:" in row["reason"]
            assert await said() == "2/10;narrowed"
            assert await count_of(at, "tools_refused_total") == 1

    run(scenario())


async def _is(ask, wanted):
    return await ask() == wanted


def test_many_requests_at_once_are_each_narrowed_by_their_own_turn(ready):
    async def scenario():
        async with ready() as at:
            texts = [RAIN, SHARES] * 10
            await asyncio.gather(
                *(at.client.send(CHAT, asking(text), x_route_tools="2") for text in texts)
            )
            for place, body in enumerate(at.pool.bodies):
                asked = json.loads(body)["messages"][0]["content"]
                assert ("weather" if asked == RAIN else "stocks") in sent(at, place)

    run(scenario())
