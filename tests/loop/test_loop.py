"""The whole loop over HTTP, with the real programs."""

import asyncio
import threading
import time
from typing import Any

import httpx
import openai
import pytest
import redis

from storage.embedded import redis_client_url
from tests.loop.installation import Installation, wait_until


def test_the_loop_learns_from_feedback_and_the_edge_serves_what_it_learned(
    installation: Installation,
) -> None:
    installation.declare()
    base = f"/v1/policies/{installation.policy}"
    tally = installation.send(1_500)
    wait_until(lambda: installation.call("GET", f"{base}/status")["champion"]["version"] > 1, 60)
    status = installation.call("GET", f"{base}/status")
    version = installation.call("GET", f"{base}/versions/{status['champion']['version']}")
    assert version["verdicts"][0]["passed"]
    assert version["verdicts"][0]["numbers"]["over_champion"]["low"] > 0

    def header() -> str:
        answer = httpx.post(
            f"{installation.edge_url}/v1/chat/completions",
            json={
                "model": f"route/{installation.policy}",
                "messages": [{"role": "user", "content": "hi"}],
            },
        )
        return answer.headers["x-route-policy"]

    wait_until(lambda: header() == f"{installation.policy}@{status['champion']['version']}", 20)
    # A machine that is too slow for the rate skips some; of those sent none is lost.
    assert tally.requests + tally.skipped == 1_500
    assert tally.graded + sum(tally.errors.values()) == tally.requests
    before = tally.since(0)
    more = installation.send(300, seed=1)
    after = more.since(0)
    assert before is not None
    assert after is not None
    assert after.served > before.served
    wait_until(lambda: installation.all_joined(tally.requests + more.requests), 60)


def test_the_edge_serves_on_while_the_control_plane_is_killed_and_nothing_is_lost(
    installation: Installation,
) -> None:
    installation.declare()
    traffic = installation.traffic(rate_per_s=40)
    sending = threading.Thread(target=lambda: asyncio.run(traffic.run(requests=500)))
    sending.start()
    time.sleep(3)
    installation.kill("api", "worker", "beat")
    time.sleep(4)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{installation.api_url}/healthz")
    answered = traffic.tally.graded
    time.sleep(1)
    assert traffic.tally.graded > answered
    installation.start("api", "worker", "beat")
    sending.join(60)
    assert not sending.is_alive()
    tally = traffic.tally
    assert not {name for name in tally.errors if not name.startswith("http_")}, tally.errors
    served = {truth.decision_id for truth in tally.truths}
    wait_until(lambda: installation.all_joined(len(served)), 60)
    decisions = "SELECT decision_id FROM decisions WHERE policy_id = :policy"
    stored = {str(found) for found in installation.column(decisions)}
    positions = installation.column(
        "SELECT position FROM interactions WHERE policy_id = :policy ORDER BY position"
    )
    assert served <= stored
    assert positions == list(range(1, len(stored) + 1))
    assert tally.feedback["lost"] == 0
    assert tally.feedback["dropped"] == 0
    wait_until(lambda: installation.own_edge()["spool_depth"] == 0, 20)


def test_a_killed_worker_and_an_emptied_redis_delay_the_join_by_seconds(
    installation: Installation,
) -> None:
    installation.declare()
    installation.send(100)
    installation.kill("worker")
    with redis.Redis.from_url(redis_client_url(installation.redis_url)) as client:
        client.flushall()
    installation.send(100, seed=1)
    installation.start("worker")
    began = time.monotonic()
    wait_until(lambda: installation.all_joined(200), 30)
    print(f"all joined {time.monotonic() - began:.1f} s after the worker's start")


def test_the_openai_client_is_served_streaming_and_not(installation: Installation) -> None:
    installation.declare()
    client = openai.OpenAI(base_url=f"{installation.edge_url}/v1", api_key="unused")
    messages: Any = [{"role": "user", "content": "Write a function that reverses a list."}]
    raw = client.chat.completions.with_raw_response.create(
        model=f"route/{installation.policy}", messages=messages
    )
    answer = raw.parse()
    assert "simulated answer" in (answer.choices[0].message.content or "")
    assert raw.headers["x-route-policy"] == f"{installation.policy}@1"
    assert raw.headers["x-route-propensity"] == "0.2"
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model=f"route/{installation.policy}", messages=messages, stream=True
        )
        if chunk.choices
    ]
    assert len(pieces) > 1
    assert "simulated answer" in "".join(pieces)
    wait_until(lambda: installation.all_joined(2), 30)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="route/nothing", messages=messages)
