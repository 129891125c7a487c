"""Traffic against a real pool, behind a tiny edge and a tiny control plane that keep records."""

import asyncio
import json
import random
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

from controlplane.simulation.contract import Drift, WorldError
from controlplane.simulation.habits import Habits
from controlplane.simulation.tally import Tally, compare
from controlplane.simulation.traffic import Traffic
from controlplane.simulation.world import default_world
from learners.ids import parse, uuid7

WORLD = default_world()
PROMPT_USERS = Habits(
    stream_share=0.3,
    silent_share=0.0,
    early_share=0.0,
    late_share=0.0,
    repeat_share=0.0,
    wait_s=(0.0, 0.05),
)
NOWHERE = "http://127.0.0.1:9"


@dataclass
class TinyEdge:
    """Sends each request to an arm drawn evenly, and names it as an edge does."""

    pool_url: str
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    http: aiohttp.ClientSession | None = None
    asked: list[dict[str, object]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    served: dict[str, str] = field(default_factory=dict)
    refuse: int | None = None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(dict(body))
        self.keys.append(request.headers.get("authorization"))
        arm = self.rng.choice(WORLD.arm_names)
        decision_id = str(uuid7(datetime.now(UTC), secrets.token_bytes(10)))
        headers = {"x-route-decision-id": decision_id, "x-route-model": arm}
        if self.refuse is not None:
            return web.json_response({}, status=self.refuse, headers=headers)
        self.served[decision_id] = arm
        assert self.http is not None
        url = f"{self.pool_url}/v1/chat/completions"
        async with self.http.post(url, json={**body, "model": arm}) as answer:
            headers["content-type"] = answer.headers["content-type"]
            return web.Response(body=await answer.read(), status=answer.status, headers=headers)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)

        async def session(_: web.Application) -> AsyncIterator[None]:
            async with aiohttp.ClientSession() as self.http:
                yield

        app.cleanup_ctx.append(session)
        return app


@dataclass
class TinyControlPlane:
    """Keeps what it is told; fails the first ``failures`` sendings."""

    failures: int = 0
    refuse: int | None = None
    told: list[tuple[str | None, dict[str, object], str | None]] = field(default_factory=list)

    async def feedback(self, request: web.Request) -> web.Response:
        if self.failures > 0:
            self.failures -= 1
            return web.json_response({"title": "busy"}, status=503)
        if self.refuse is not None:
            return web.json_response({"title": "no"}, status=self.refuse)
        key = request.headers.get("idempotency-key")
        again = key is not None and any(key == known for known, _, _ in self.told)
        self.told.append((key, await request.json(), request.headers.get("authorization")))
        status = "duplicate" if again else "accepted"
        return web.json_response({"feedback_id": "f", "status": status}, status=202)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/feedback", self.feedback)
        return app


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(scope="module")
def pool_url() -> Iterator[str]:
    command = [sys.executable, "-m", "controlplane.simulation.pool", "--port", "0", "--speed", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.terminate()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("what was waited for did not come within 30 s")


def traffic(
    edge_url: str, control_plane_url: str, habits: Habits = PROMPT_USERS, **more
) -> Traffic:
    return Traffic(
        edge_url=edge_url,
        control_plane_url=control_plane_url,
        api_key="pm_key_secret",
        policy="chat",
        world=more.pop("world", WORLD),
        rate_per_s=more.pop("rate_per_s", 2_000.0),
        habits=habits,
        **more,
    )


def play(
    edge: TinyEdge, plane: TinyControlPlane, count: int, habits: Habits = PROMPT_USERS, **more
) -> Tally:
    async def main() -> Tally:
        async with serving(edge.app()) as edge_url, serving(plane.app()) as plane_url:
            users = traffic(edge_url, plane_url, habits, concurrency=500, **more)
            return await asyncio.wait_for(users.run(requests=count), 60)

    return asyncio.run(main())


def test_each_answer_is_graded_and_told_once_with_its_decision(pool_url):
    edge, plane = TinyEdge(pool_url), TinyControlPlane()
    tally = play(edge, plane, 200)
    assert tally.requests == len(edge.asked) == 200
    assert tally.graded == 200
    assert tally.errors.total() <= 10  # the arms fail at 0.2 to 0.5 %
    told = {str(body["decision_id"]): body for _, body, _ in plane.told}
    assert len(told) == len(plane.told) == 200
    assert told.keys() >= {truth.decision_id for truth in tally.truths}
    for truth in tally.truths:
        body = told[truth.decision_id]
        parse(truth.decision_id)
        assert (body["metric"], body["value"]) == ("score", truth.score)
        assert datetime.fromisoformat(str(body["occurred_at"])).tzinfo is not None
    assert {key for _, _, key in plane.told} == {"Bearer pm_key_secret"}
    assert {body["model"] for body in edge.asked} == {"route/chat"}
    streamed = sum(bool(body.get("stream")) for body in edge.asked)
    assert 30 <= streamed <= 90


def test_the_truth_is_what_the_pool_served_beside_all_other_arms(pool_url):
    edge = TinyEdge(pool_url)
    tally = play(edge, TinyControlPlane(), 150)
    answered = [truth for truth in tally.truths if truth.score > 0]
    assert len(answered) >= 140
    for truth in answered:
        assert truth.served == edge.served[truth.decision_id]
        assert truth.rewards.keys() == set(WORLD.arm_names)
        assert truth.reward == pytest.approx(truth.rewards[truth.served], abs=0.0051)
        assert truth.cost_usd > 0
    assert tally.arms.total() == tally.graded
    assert tally.mean_score == pytest.approx(
        sum(truth.score for truth in tally.truths) / tally.graded
    )
    comparison = tally.since(0)
    assert comparison is not None
    assert comparison.served == pytest.approx(comparison.random, abs=0.08)
    assert comparison.per_domain > comparison.fixed[comparison.best_fixed] + 0.08
    assert json.loads(json.dumps(tally.as_json()))["comparison"]["requests"] == tally.graded


def test_users_are_silent_repeat_themselves_and_come_early_or_late_as_their_habits_say(pool_url):
    habits = replace(
        PROMPT_USERS, silent_share=0.3, early_share=0.2, repeat_share=0.4, late_share=0.1,
        late_s=(100.0, 200.0), drain_s=3.0,
    )  # fmt: skip
    edge, plane = TinyEdge(pool_url), TinyControlPlane()
    tally = play(edge, plane, 300, habits)
    sendings = Counter(str(body["decision_id"]) for _, body, _ in plane.told)
    assert 300 * 0.5 <= len(sendings) <= 300 * 0.7  # 30 % are silent, 10 % too late for this run
    repeated = sum(count == 2 for count in sendings.values())
    assert 0.3 <= repeated / len(sendings) <= 0.5
    assert max(sendings.values()) == 2
    unkeyed = sum(key is None for key, _, _ in plane.told)
    assert 0.1 <= unkeyed / repeated <= 0.5
    assert tally.feedback["accepted"] == len(plane.told) - tally.feedback["duplicate"]
    assert tally.feedback["duplicate"] == repeated - unkeyed
    assert 15 <= tally.feedback["dropped"] <= 80
    bodies: dict[str, set[str]] = {}
    for _, body, _ in plane.told:
        bodies.setdefault(str(body["decision_id"]), set()).add(json.dumps(body))
    assert all(len(found) == 1 for found in bodies.values())


def test_the_same_seed_asks_the_same_questions_and_another_seed_others(pool_url):
    def prompts(seed: int) -> list[str]:
        edge = TinyEdge(pool_url)
        play(edge, TinyControlPlane(), 30, seed=seed)
        return sorted(json.dumps(body["messages"]) for body in edge.asked)

    assert prompts(3) == prompts(3)
    assert prompts(3) != prompts(4)


def test_feedback_is_sent_again_while_the_control_plane_is_busy(pool_url):
    edge, plane = TinyEdge(pool_url), TinyControlPlane(failures=5)
    tally = play(edge, plane, 20)
    assert len(plane.told) == 20
    assert tally.feedback["accepted"] == 20


def test_feedback_that_is_refused_is_not_sent_again(pool_url):
    tally = play(TinyEdge(pool_url), TinyControlPlane(refuse=422), 10)
    assert tally.feedback["http_422"] == 10


def test_the_traffic_goes_on_without_a_control_plane(pool_url, monkeypatch):
    monkeypatch.setattr("controlplane.simulation.calls.FIRST_PAUSE_S", 0.001)

    async def main() -> Tally:
        async with serving(TinyEdge(pool_url).app()) as edge_url:
            return await traffic(edge_url, NOWHERE).run(requests=20)

    tally = asyncio.run(main())
    assert tally.graded >= 18
    assert tally.feedback["lost"] == 20


def test_the_traffic_goes_on_without_an_edge():
    tally = asyncio.run(traffic(NOWHERE, NOWHERE, edge_key="k").run(requests=20))
    assert tally.errors == {"unreachable": 20}
    assert tally.graded == 0
    assert tally.mean_score is None
    assert tally.since(0) is None


def test_an_answer_that_fails_is_graded_with_0(pool_url):
    edge, plane = TinyEdge(pool_url, refuse=503), TinyControlPlane()
    tally = play(edge, plane, 10, edge_key="client-key")
    assert tally.errors == {"http_503": 10}
    assert [body["value"] for _, body, _ in plane.told] == [0.0] * 10
    assert [truth.reward for truth in tally.truths] == [0.0] * 10
    assert set(edge.keys) == {"Bearer client-key"}


def test_an_answer_without_a_grade_is_counted_and_not_told():
    async def chat(_: web.Request) -> web.Response:
        message = {"role": "assistant", "content": "hello"}
        return web.json_response({"choices": [{"message": message}]})

    async def broken(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>", content_type="application/json")

    async def main(handler, plane: TinyControlPlane) -> Tally:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        async with serving(app) as edge_url, serving(plane.app()) as plane_url:
            return await traffic(edge_url, plane_url).run(requests=5)

    plane = TinyControlPlane()
    assert asyncio.run(main(chat, plane)).errors == {"ungraded": 5}
    assert asyncio.run(main(broken, plane)).errors == {"broken": 5}
    assert plane.told == []


def test_what_comes_on_top_of_the_concurrency_is_skipped():
    async def main() -> Tally:
        gate = asyncio.Event()

        async def chat(_: web.Request) -> web.Response:
            await gate.wait()
            return web.Response(status=503)

        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        async with serving(app) as edge_url:
            users = traffic(edge_url, NOWHERE, concurrency=3)
            running = asyncio.create_task(users.run(requests=50))
            await until(lambda: users.tally.skipped + users.tally.requests == 50)
            gate.set()
            return await running

    tally = asyncio.run(main())
    assert (tally.requests, tally.skipped) == (3, 47)
    assert tally.errors == {"http_503": 3}


def test_stop_ends_traffic_that_has_no_end(pool_url):
    async def main() -> Tally:
        edge, plane = TinyEdge(pool_url), TinyControlPlane()
        async with serving(edge.app()) as edge_url, serving(plane.app()) as plane_url:
            users = traffic(edge_url, plane_url, rate_per_s=100.0)
            running = asyncio.create_task(users.run())
            await until(lambda: users.tally.graded >= 5)
            users.stop()
            tally = await asyncio.wait_for(running, 20)
            assert tally.feedback["accepted"] == tally.requests == len(plane.told)
            return tally

    assert asyncio.run(main()).graded >= 5


def test_a_defect_of_the_world_ends_the_traffic_loudly(pool_url):
    world = replace(WORLD, arms=WORLD.arms)
    world.__dict__["_by_name"] = {}  # answers now raise, which no world should do
    with pytest.raises(WorldError, match="no arm"):
        play(TinyEdge(pool_url), TinyControlPlane(), 20, world=world)


def test_a_comparison_can_start_at_a_request_and_follows_the_world_that_is_set(pool_url):
    async def main() -> Traffic:
        edge, plane = TinyEdge(pool_url), TinyControlPlane()
        async with serving(edge.app()) as edge_url, serving(plane.app()) as plane_url:
            worse = WORLD.with_drifts((Drift("medium", at_request=50, skill_shift={"*": -0.5}),))
            users = traffic(edge_url, plane_url, concurrency=500, world=worse)
            await users.run(requests=100)
            return users

    tally = asyncio.run(main()).tally
    before = compare(truth for truth in tally.truths if truth.request < 50)
    after = tally.since(50)
    assert before is not None
    assert after is not None
    assert before.requests + after.requests == tally.graded
    assert before.fixed["medium"] > after.fixed["medium"] + 0.3


@pytest.mark.parametrize(
    ("field_name", "value", "words"),
    [
        ("edge_url", "localhost:8081", "edge_url is 'localhost:8081'"),
        ("control_plane_url", "", "control_plane_url is ''"),
        ("rate_per_s", 0.0, "rate_per_s is 0.0"),
        ("concurrency", 0, "concurrency is 0"),
    ],
)
def test_traffic_refuses_what_it_can_not_send(field_name, value, words):
    with pytest.raises(WorldError) as caught:
        replace_field(field_name, value)
    assert words in str(caught.value)


def replace_field(name: str, value: object) -> Traffic:
    fields: dict[str, object] = {
        "edge_url": NOWHERE, "control_plane_url": NOWHERE, "api_key": "", "policy": "chat",
        "world": WORLD, "rate_per_s": 1.0,
    }  # fmt: skip
    return Traffic(**{**fields, name: value})  # type: ignore[arg-type]


def test_habits_refuse_shares_that_can_not_be():
    with pytest.raises(WorldError, match=r"silent_share is 1\.5"):
        Habits(silent_share=1.5)
    with pytest.raises(WorldError, match="add up to more than 1"):
        Habits(silent_share=0.6, early_share=0.5)
    with pytest.raises(WorldError, match="wait_s"):
        Habits(wait_s=(3.0, 1.0))
