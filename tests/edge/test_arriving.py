"""Large chat bodies: their text is read while they come, and they are passed on as they were."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from edge.arriving import CHAT_PATH, FIRST_BYTES, Arrivals, arrived_at, body_of, heard_of
from edge.errors import as_problems
from edge.guards import Bodies
from edge.metrics import Metrics
from edge.policies import Policies
from edge.reading import Reader
from kernels.intake import Early
from learners.bundle import Bundle
from tests.edge.doubles import eventually, make_bundle
from tests.edge.naming import MAIL, naming
from tests.edge.ready import SOFT, Ready, run

HALF = "The boat lies in the harbour. " * 4_000
LONG = f"{HALF}Write to ann.lee@example.org about it. {HALF}"


def chat(text: str, model: str = "route/chat") -> bytes:
    said = [{"role": "system", "content": "bo@example.org"}, {"role": "user", "content": text}]
    return json.dumps({"messages": said, "model": model, "temperature": 0.30}).encode()


async def parts(body: bytes, step: int, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for at in range(0, len(body), step):
        yield body[at : at + step]
        await asyncio.sleep(pause_s)


class Taken:
    """What came of one body."""

    def __init__(self) -> None:
        self.body = b""
        self.early: Early | None = None
        self.status = 0
        self.waited_s = 0.0


async def take(
    bundle: Bundle,
    body: bytes,
    *,
    most: int = 2**24,
    step: int = 20_000,
    pause_s: float = 0.0,
) -> Taken:
    policies, taken = Policies(["chat"]), Taken()
    policies.swap(bundle)

    async def handle(request: web.Request) -> web.Response:
        taken.waited_s = perf_counter() - arrived_at(request)
        taken.body = await body_of(request)
        heard = heard_of(request)
        taken.early = heard.finish() if heard is not None else None
        return web.Response()

    bodies = Bodies(10.0, Arrivals(policies, Reader(Metrics())).take)
    app = web.Application(middlewares=[as_problems, bodies.read], client_max_size=most)
    app.add_routes([web.post(CHAT_PATH, handle)])
    async with TestClient(TestServer(app)) as client:
        answer = await client.post(CHAT_PATH, data=parts(body, step, pause_s))
        taken.status = answer.status
    return taken


def taken(bundle: Bundle, body: bytes, **more: Any) -> Taken:
    return asyncio.run(take(bundle, body, **more))


@pytest.mark.parametrize("step", [1_500, 20_000, 1_000_000])
def test_a_large_body_is_read_while_it_comes_and_kept_as_it_is(step: int) -> None:
    body = chat(LONG)
    assert len(body) > 3 * FIRST_BYTES
    found = taken(naming(MAIL), body, step=step)
    assert (found.status, found.body) == (200, body)
    assert found.early is not None
    assert found.early.chars == len(LONG) + 1
    assert found.early.personal.counts["email"] == 1


@pytest.mark.parametrize("step", [1_500, 20_000])
def test_a_tools_result_is_read_for_guards_while_it_comes(step: int) -> None:
    told = [("user", "What does it say?"), ("tool", LONG), ("assistant", "cy@example.org")]
    messages = [{"role": role, "content": content} for role, content in told]
    body = json.dumps({"model": "route/chat", "messages": messages}).encode()
    found = taken(naming(MAIL), body, step=step)
    assert found.body == body
    assert found.early is not None
    assert found.early.chars == len("What does it say?\n") + len(LONG) + 1
    assert found.early.personal.counts["email"] == 1


@pytest.mark.parametrize(
    ("bundle", "body"),
    [
        (naming(MAIL), chat("short")),
        (make_bundle(), chat(LONG)),
        (naming(MAIL), b'{"model":"gpt-0",' + chat(LONG)[1:]),
        (naming(MAIL), b'{"model":"route/other",' + chat(LONG)[1:]),
        (naming(MAIL), b"[}" + chat(LONG)),
    ],
    ids=["small", "text signals alone", "an arm", "another policy", "no JSON"],
)
def test_a_body_that_need_not_be_listened_to_is_kept_as_it_is(bundle: Bundle, body: bytes) -> None:
    found = taken(bundle, body)
    assert found.body == body
    assert found.early is None


@pytest.mark.parametrize("bundle", [naming(MAIL), make_bundle()], ids=["heard", "not heard"])
def test_the_time_that_a_body_takes_to_come_is_not_ours(bundle: Bundle) -> None:
    started = perf_counter()
    found = taken(bundle, chat(LONG), step=50_000, pause_s=0.2)
    assert perf_counter() - started > 0.8
    assert 0 < found.waited_s < 0.4


@pytest.mark.parametrize("bundle", [naming(MAIL), make_bundle()], ids=["heard", "not heard"])
def test_a_body_past_the_limit_is_refused_either_way(bundle: Bundle) -> None:
    found = taken(bundle, chat(LONG), most=200_000)
    assert (found.status, found.body) == (413, b"")
    assert taken(bundle, chat(LONG), most=len(chat(LONG))).status == 200


def test_what_is_said_in_a_large_chat_is_in_its_decision_and_goes_to_the_arm(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with Ready(tmp_path) as at, aiohttp.ClientSession() as session:
            bundle = naming(MAIL, endpoint=at.pool.url, exploration=SOFT, serial=2)
            at.plane.publish(bundle)
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == 2)
            body = chat(LONG)
            async with session.post(at.client.url + CHAT_PATH, data=parts(body, 30_000)) as got:
                assert got.status == 200
            await eventually(lambda: at.plane.decisions)
            context = at.plane.decisions[-1]["context"]
            assert context["personal.email"] is True
            assert context["language"] == "en"
            messages = body[body.index(b"[") : body.index(b"]") + 1]
            assert messages in at.pool.bodies[-1]

    run(scenario())
