import asyncio
import json

import aiohttp
import pytest
import yarl

from edge import proxy
from tests.edge.doubles import (
    ANSWER,
    ANSWERS,
    ARMS,
    FAILURE,
    eventually,
    stream_events,
)
from tests.edge.ready import ASK, CHAT, STREAM, Ready, run

OURS = ("x-route-decision-id", "x-route-model", "x-route-policy", "x-route-propensity")


async def connect(at: Ready) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to the edge, whose reading and writing are the test's to slow down."""
    url = yarl.URL(at.client.url)
    assert url.host is not None
    # A small limit: the client's side reads no more than that ahead of the test.
    return await asyncio.open_connection(url.host, url.port, limit=1024)


def request_of(ask: object) -> bytes:
    body = json.dumps(ask).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        CHAT.encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_relayed_byte_for_byte_and_measured(tmp_path, usage):
    ask = {**STREAM, "stream_options": {"include_usage": True}} if usage else STREAM

    async def scenario():
        async with Ready(tmp_path) as at:
            status, headers, body = await at.client.send(CHAT, ask)
            assert status == 200
            assert body == b"".join(stream_events(usage=usage))
            assert headers["content-type"] == "text/event-stream"
            assert headers["x-route-decision-id"]
            values = (await at.outcomes(1))[0]["values"]
            assert 0 < values["ttft_s"] < values["latency_s"]
            # Without usage: 18 characters are 5 tokens, and 3 chunks carried text.
            expected = (7, 5) if usage else (5, 3)
            assert (values["input_tokens"], values["output_tokens"]) == expected
            assert values["cost_usd"] == pytest.approx((expected[0] + 2 * expected[1]) / 1e6)
            assert values["error"] == 0
            scraped = (await at.client.get("/metrics"))[1]
            assert f"pointsman_edge_estimated_total {0.0 if usage else 1.0}" in scraped

    run(scenario())


def test_a_stream_that_breaks_later_is_broken_for_the_client_too(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("break_later", "small", "medium", "large")
            with pytest.raises(aiohttp.ClientError, match=r"payload|closed|disconnected"):
                await at.client.send(CHAT, STREAM)
            (outcome,) = await at.outcomes(1)
            assert outcome["values"]["error"] == 1
            assert len(at.plane.decisions) == 1

    run(scenario())


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
def test_an_arms_own_route_headers_do_not_hide_the_edges(tmp_path, ask):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("routed", *ARMS)
            async with at.client.session.post(at.client.url + CHAT, json=ask) as found:
                assert found.status == 200
                names = [name.lower() for name in found.headers if name.lower()[:8] == "x-route-"]
                assert sorted(names) == sorted(OURS)
                given = found.headers["x-route-decision-id"]
            await at.outcomes(1)
            assert given == at.plane.decisions[0]["decision_id"]

    run(scenario())


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
def test_an_error_told_with_a_status_of_success_is_an_error(tmp_path, ask):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("told_error", *ARMS)
            status, _, body = await at.client.send(CHAT, ask)
            assert (status, FAILURE in body) == (200, True)
            (outcome,) = await at.outcomes(1)
            assert outcome["values"]["error"] == 1

    run(scenario())


@pytest.mark.parametrize("how", ["absurd_usage", "deep"])
def test_an_answer_that_cannot_be_measured_is_relayed_all_the_same(tmp_path, how):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail(how, *ARMS)
            status, _, body = await at.client.send(CHAT, ASK)
            assert (status, body) == (200, ANSWERS[how])
            (outcome,) = await at.outcomes(1)
            assert set(outcome["values"]) == {"latency_s", "error"}

    run(scenario())


def test_a_bug_in_measuring_costs_the_outcome_and_not_the_answer(tmp_path, monkeypatch):
    def fail(_):
        raise OverflowError("a bug")

    monkeypatch.setattr(proxy, "count_chars", fail)

    async def scenario():
        async with Ready(tmp_path) as at:
            status, _, body = await at.client.send(CHAT, ASK)
            assert (status, body) == (200, ANSWER)
            line = 'pointsman_edge_dropped_total{kind="outcome",reason="unmeasured"} 1.0'
            assert line in (await at.client.get("/metrics"))[1]

    run(scenario())


@pytest.mark.parametrize("path", [CHAT, "/v1/decide"])
def test_a_body_that_does_not_arrive_gives_its_place_up(tmp_path, path):
    async def scenario():
        async with Ready(tmp_path, max_requests=1, body_timeout_s=0.3) as at:
            reader, writer = await connect(at)
            writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\n" % path.encode())
            writer.write(b"Content-Length: 1000\r\n\r\n{")
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" in head.lower()
            assert (await at.client.send(CHAT, ASK))[0] == 200
            writer.close()

    run(scenario())


@pytest.mark.parametrize("limit", [{"silence_timeout_s": 0.5}, {"request_timeout_s": 2}], ids=str)
def test_a_client_that_does_not_read_its_stream_gives_its_place_up(tmp_path, limit):
    async def scenario():
        async with Ready(tmp_path, max_requests=1, **limit) as at:
            at.fail("flood", *ARMS)
            _, writer = await connect(at)
            writer.write(request_of(STREAM))
            (outcome,) = await at.outcomes(1)
            # The client was too slow, which says nothing of the arm.
            assert "error" not in outcome["values"]
            at.fail("good", *ARMS)
            assert (await at.client.send(CHAT, ASK))[0] == 200
            writer.close()

    run(scenario())


def test_a_client_that_does_not_read_its_whole_answer_is_cut_off(tmp_path):
    async def scenario():
        async with Ready(tmp_path, max_requests=1, request_timeout_s=1) as at:
            at.fail("huge_answer", *ARMS)
            reader, writer = await connect(at)
            writer.write(request_of(ASK))
            (outcome,) = await at.outcomes(1)
            assert outcome["values"]["error"] == 0

            async def idle():
                return "requests_in_flight 0.0" in (await at.client.get("/metrics"))[1]

            await eventually(idle)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(len(ANSWERS["huge_answer"]))
            writer.close()

    run(scenario())


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
def test_a_client_that_gives_up_cancels_the_arm_and_leaves_a_latency(tmp_path, ask):
    async def scenario():
        async with Ready(tmp_path) as at:
            at.fail("hang", "small", "medium", "large")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(at.client.send(CHAT, ask), 0.3)
            await asyncio.wait_for(at.pool.cancelled.wait(), 5)
            (outcome,) = await at.outcomes(1)
            assert set(outcome["values"]) == {"latency_s"}
            assert outcome["values"]["latency_s"] >= 0.2

    run(scenario())


def test_an_answer_past_the_limit_is_a_failure_of_the_arm(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            assert (await at.client.send(CHAT, ASK))[0] == 200
        async with Ready(tmp_path / "small", max_answer_bytes=1024, retries=0) as at:
            # The usual answer is smaller, so the limit has to be the reason.
            at.fail("large_answer", *ARMS)
            status, problem = await at.client.post(CHAT, ASK)
            assert status == 502
            assert "1024 bytes" in problem["detail"]

    run(scenario())
