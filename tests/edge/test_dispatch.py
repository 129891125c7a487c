"""A share of the requests also goes to a shadow's arm: measured, bounded, never in the way."""

import asyncio
import json
from collections import Counter
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionUserMessageParam

from edge.answers import HELD_S, MAX_BYTES, Answers
from edge.app import new_id, now
from edge.purse import Purse
from edge.router import counterfactual, decide
from feedback.lines import read_decision
from learners.lineup import Dispatch
from tests.edge.doubles import ANSWER, ARMS, eventually, stream_events
from tests.edge.lineups import halves, stage, staged
from tests.edge.ready import ASK, CHAT, STREAM, Ready, run

ALL = Dispatch(share=1.0, usd_per_hour=100.0, max_in_flight=16)
HEADER = "x-route-shadow-decision-id"


def rows_of(at: Ready, mode: str) -> list[dict[str, Any]]:
    return [row for row in at.plane.decisions if row["mode"] == mode]


async def counted(at: Ready, result: str) -> float:
    name = f'pointsman_edge_shadow_dispatches_total{{policy="chat",result="{result}"}} '
    lines = str((await at.client.get("/metrics"))[1]).splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_openais_client_is_served_with_splits_and_shadows_while_arms_are_compared(tmp_path):
    async def scenario():
        async with (
            Ready(tmp_path) as at,
            openai.AsyncOpenAI(
                base_url=f"{at.client.url}/v1", api_key="unused", max_retries=0
            ) as client,
        ):
            bundle = await stage(at, split=halves("user"), shadows=(7, 8), dispatch=ALL)
            messages = [ChatCompletionUserMessageParam(role="user", content="Capital of France?")]
            pairs: dict[str, str] = {}
            for number in range(24):
                create: Any = client.chat.completions.with_raw_response.create
                raw = await create(
                    model="route/chat",
                    messages=messages,
                    user=f"user-{number % 6}",
                    stream=number % 2 == 0,
                )
                answer = raw.parse()
                if number % 2 == 0:
                    parts = [c.choices[0].delta.content or "" async for c in answer]
                    assert "".join(parts) == "Paris"
                else:
                    assert answer.choices[0].message.content == "Paris"
                assert raw.headers["x-route-variant"].startswith("prices/")
                if HEADER in raw.headers:
                    pairs[raw.headers[HEADER]] = raw.headers["x-route-decision-id"]
            assert pairs
            await eventually(lambda: len(at.plane.outcomes) == 24 + len(pairs))
            shadows = rows_of(at, "shadow")
            assert {row["decision_id"]: row["retry_of"] for row in shadows} == pairs
            served = {row["decision_id"]: row for row in rows_of(at, "policy")}
            outcomes = {row["decision_id"]: row["values"] for row in at.plane.outcomes}
            for row in shadows:
                before = served[row["retry_of"]]
                assert row["action"] != before["action"]
                assert row["eligible"] == [n for n in ARMS if n != before["action"]]
                exact = bundle.distribution(before["context"], ARMS, version=row["version"])
                rest = 1 - exact[bundle.index[before["action"]]]
                assert row["propensity"] == pytest.approx(exact[bundle.index[row["action"]]] / rest)
                assert (row["unit"], row["session_id"], row["shadows"]) == (None, None, [])
                assert outcomes[row["decision_id"]]["error"] == 0
                assert outcomes[row["decision_id"]]["cost_usd"] > 0
            for line in at.plane.decisions:  # as the control plane would take them
                read_decision(json.dumps(line).encode(), now())
            assert await counted(at, "answered") == len(pairs)
            assert await counted(at, "agreed") == 24 - len(pairs)

    run(scenario())


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
def test_the_other_arms_answer_is_there_to_be_judged(tmp_path, ask):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=ALL)
            headers: dict[str, str] = {}
            while HEADER not in headers:
                _, headers, _ = await at.client.send(CHAT, ask)
            url = f"{at.client.url}/v1/shadow-answers/{headers[HEADER]}"

            async def has_come() -> bool:
                async with at.client.session.get(url) as found:
                    return bool(found.status == 200)

            await eventually(has_come)
            async with at.client.session.get(url) as found:
                body = await found.read()
                assert found.headers["x-route-model"] != headers["x-route-model"]
                kind = found.headers["content-type"]
            if ask is ASK:
                assert (body, kind) == (ANSWER, "application/json")
            else:
                assert (body, kind) == (b"".join(stream_events(usage=False)), "text/event-stream")
            status, problem = await at.client.get(f"/v1/shadow-answers/{new_id(now())}")
            assert (status, problem["field"]) == (404, "decision_id")

    run(scenario())


def test_a_shadows_arm_that_hangs_or_fails_is_none_of_the_users_business(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=Dispatch(1.0, 100.0, 2))
            at.fail("hang", "large")
            promised: list[str] = []
            while not await counted(at, "busy"):
                # What `large` serves hangs for the user too; all else is answered at once.
                try:
                    found = await asyncio.wait_for(at.client.send(CHAT, ASK), 0.3)
                except TimeoutError:
                    continue
                promised += [found[1][HEADER]] if HEADER in found[1] else []
            waiting = [(await at.client.get(f"/v1/shadow-answers/{one}"))[0] for one in promised]
            assert waiting.count(202) == 2

    run(scenario())


def test_an_arm_that_fails_a_shadow_is_an_outcome_and_costs_no_retry(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=ALL)
            at.fail("500", "large")
            headers: dict[str, str] = {}
            while not (HEADER in headers and headers["x-route-model"] != "large"):
                _, headers, _ = await at.client.send(CHAT, ASK)
            await eventually(
                lambda: headers[HEADER] in {row["decision_id"] for row in at.plane.outcomes}
            )
            (outcome,) = [r for r in at.plane.outcomes if r["decision_id"] == headers[HEADER]]
            (row,) = [r for r in at.plane.decisions if r["decision_id"] == headers[HEADER]]
            assert outcome["values"]["error"] == (row["action"] == "large")
            assert not any(r["retry_of"] == headers[HEADER] for r in at.plane.decisions)
            # Only what users asked for is counted as served, and as measured.
            scraped = (await at.client.get("/metrics"))[1]
            assert 'mode="shadow"' not in scraped

    run(scenario())


def test_what_it_may_cost_bounds_how_much_is_sent(tmp_path):
    async def scenario():
        # A request costs 50 millionths of a dollar, and 2,053 are reserved for it.
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=Dispatch(1.0, 2.2e-3, 16))
            for _ in range(40):
                await at.client.send(CHAT, ASK)
                await eventually(lambda: len(at.plane.outcomes) == len(at.plane.decisions))
            sent = len(rows_of(at, "shadow"))
            # After the k-th there is room for another while 50 k + 2,053 ≤ 2,200.
            assert sent == 3
            assert await counted(at, "budget") > 0

    run(scenario())


def test_without_money_only_arms_that_cost_nothing_are_asked(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=Dispatch(1.0, 0.0, 16))
            for _ in range(10):
                _, headers, _ = await at.client.send(CHAT, ASK)
                assert HEADER not in headers
            await at.outcomes(10)
            assert len(at.pool.bodies) == 10

    run(scenario())


def test_a_client_that_gives_up_sends_nothing_to_a_shadow(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=Dispatch(1.0, 100.0, 1))
            at.fail("hang", *ARMS)
            while not await counted(at, "given_up"):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(at.client.send(CHAT, ASK), 0.1)
                await eventually(lambda: len(at.plane.outcomes) == len(at.plane.decisions))
            assert rows_of(at, "shadow") == []
            # Its place is free again.
            at.fail("good", *ARMS)
            while not rows_of(at, "shadow"):
                await at.client.send(CHAT, ASK)

    run(scenario())


def test_a_share_of_the_requests_is_drawn(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, shadows=(7,), dispatch=Dispatch(0.3, 100.0, 16))
            for _ in range(100):
                await at.client.send(CHAT, ASK)
            drawn = await counted(at, "agreed")
            await eventually(lambda: len(at.plane.outcomes) == len(at.plane.decisions) >= 100)
            drawn += await counted(at, "answered")
            # Binomial(100, 0.3): outside this range once in 10,000 runs.
            assert 13 <= drawn <= 49

    run(scenario())


def test_a_shadows_probabilities_are_those_of_its_choice_where_it_differs():
    bundle = staged(shadows=(7,))
    drawn: dict[str, Counter[str]] = {name: Counter() for name in ARMS}
    told: dict[str, dict[str, float]] = {}
    at = now()
    for _ in range(3_000):
        served = decide(bundle, {}, decision_id=new_id(at), at=at, eligible=ARMS)
        (shadow,) = served.shadows
        if shadow.action == served.action:
            continue
        found = counterfactual(bundle, served, shadow, decision_id=new_id(at), at=at)
        assert (found.mode, found.retry_of) == ("shadow", served.decision_id)
        assert found.propensity == found.distribution[found.eligible.index(found.action)]
        drawn[served.action][found.action] += 1
        told[served.action] = dict(zip(found.eligible, found.distribution, strict=True))
    for served_arm, counts in drawn.items():
        total = counts.total()
        assert total > 50
        for arm, chance in told[served_arm].items():
            # Four standard errors: a false alarm once in 2,600 runs of the six looks.
            slack = 4 * (chance * (1 - chance) / total) ** 0.5
            assert counts[arm] / total == pytest.approx(chance, abs=slack)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 2_000)), max_size=60))
def test_no_hour_costs_more_than_its_budget_but_for_what_ran_over(asked):
    purse, at = Purse(), 0.0
    spent: list[tuple[float, float]] = []
    for reserved, cost, pause in asked:
        at += pause
        if purse.reserve(reserved, 5.0, at):
            purse.settle(reserved, min(cost, reserved), at)
            spent.append((at, min(cost, reserved)))
        assert sum(usd for then, usd in spent if then > at - 3600) <= 5.0 + 1e-9


def test_what_is_reserved_counts_until_it_is_settled():
    purse = Purse()
    assert purse.reserve(3.0, 5.0, 0.0)
    assert not purse.reserve(3.0, 5.0, 0.0)
    purse.settle(3.0, 1.0, 0.0)
    assert purse.reserve(3.0, 5.0, 0.0)
    purse.settle(3.0, 4.0, 0.0)
    assert not purse.reserve(0.1, 5.0, 3_600.0)
    assert purse.reserve(0.1, 5.0, 3_720.0)


def test_answers_are_forgotten_when_they_are_old_or_there_is_no_room():
    clock = [0.0]
    answers = Answers(lambda: clock[0])
    answers.keep("a", "small", 200, "text/plain", b"x" * (MAX_BYTES // 2))
    answers.keep("b", "small", 200, "text/plain", b"x" * (MAX_BYTES // 2))
    assert list(answers.held) == ["a", "b"]
    answers.expect("c", "small")
    answers.keep("c", "small", 200, "text/plain", b"x")
    assert list(answers.held) == ["b", "c"]
    clock[0] = HELD_S + 1
    answers.expect("d", "small")
    assert list(answers.held) == ["d"]
