"""Whom a request belongs to: users, sessions and requests, sticky, counted, never by name."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from edge.app import new_id, now
from edge.metrics import MAX_VARIANTS, Metrics
from edge.router import decide
from tests.edge.doubles import ARMS, eventually
from tests.edge.lineups import halves, stage, staged
from tests.edge.ready import ASK, CHAT, Ready, run

USERS = [f"ann-{n}@example.org" for n in range(12)]
DECIDE: dict[str, Any] = {"policy": "chat", "context": {}}


def test_openais_user_is_the_unit_of_a_split_sticky_and_never_in_the_log(tmp_path):
    async def scenario():
        async with (
            Ready(tmp_path) as at,
            openai.AsyncOpenAI(
                base_url=f"{at.client.url}/v1", api_key="unused", max_retries=0
            ) as client,
        ):
            bundle = await stage(at, split=halves("user"))
            messages = [ChatCompletionUserMessageParam(role="user", content="Capital of France?")]
            seen: dict[str, set[str]] = {user: set() for user in USERS}
            for user in [*USERS, *USERS]:
                raw = await client.chat.completions.with_raw_response.create(
                    model="route/chat", messages=messages, user=user
                )
                assert raw.parse().choices[0].message.content == "Paris"
                variant = raw.headers["x-route-variant"]
                version = 7 if variant == "prices/new" else bundle.version
                assert raw.headers["x-route-policy"] == f"chat@{version}"
                seen[user].add(variant)
            assert all(len(variants) == 1 for variants in seen.values())
            assert {one for variants in seen.values() for one in variants} == {
                "prices/new",
                "prices/old",
            }
            await at.outcomes(24)
            assert "example.org" not in json.dumps(at.plane.decisions)
            assert len({row["unit"] for row in at.plane.decisions}) == len(USERS)
            # The arm is told what the client said, as without an edge.
            assert json.loads(at.pool.bodies[0])["user"] == USERS[0]
            scraped = (await at.client.get("/metrics"))[1]
            new = sum(row["variant"] == "new" for row in at.plane.decisions)
            labels = 'policy="chat",split="prices",variant="new"'
            assert f"pointsman_edge_variant_decisions_total{{{labels}}} {float(new)}" in scraped

    run(scenario())


def test_an_edge_with_the_same_bundle_gives_a_user_the_same_variant_by_either_way(tmp_path):
    async def scenario():
        found: list[list[str]] = []
        for number in range(2):
            async with Ready(tmp_path / str(number)) as at:
                await stage(at, split=halves("user"))
                variants = []
                for user in USERS:
                    _, chosen = await at.client.post("/v1/decide", {**DECIDE, "user_id": user})
                    _, headers, _ = await at.client.send(CHAT, {**ASK, "user": user})
                    assert headers["x-route-variant"] == f"{chosen['split']}/{chosen['variant']}"
                    variants.append(chosen["variant"])
                found.append(variants)
        assert found[0] == found[1]

    run(scenario())


def test_without_a_user_a_request_belongs_to_no_split_by_users(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, split=halves("user"))
            _, chosen = await at.client.post("/v1/decide", DECIDE)
            assert (chosen["split"], chosen["variant"]) == (None, None)
            status, headers, _ = await at.client.send(CHAT, {**ASK, "user": None})
            assert status == 200
            assert "x-route-variant" not in headers

    run(scenario())


def test_a_replay_keeps_its_user_and_another_user_is_another_question(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            bundle = await stage(at, split=halves("user"))
            ask = {**DECIDE, "user_id": USERS[0], "decision_id": new_id(now())}
            first = await at.client.post("/v1/decide", ask)
            assert await at.client.post("/v1/decide", ask) == first
            status, _ = await at.client.post("/v1/decide", {**ask, "user_id": USERS[1]})
            assert status == 409
        async with Ready(tmp_path / "again") as at:
            at.plane.publish(bundle)
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == bundle.serial)
            found = await at.client.post("/v1/decide", ask)
            for told in (found, first):
                del told[1]["reward_deadline"]
            assert found == first

    run(scenario())


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", 7, ["ann"]])
def test_a_user_that_is_no_id_is_refused_by_field_where_it_is_routed(tmp_path, user):
    async def scenario():
        async with Ready(tmp_path) as at:
            status, problem = await at.client.post(CHAT, {**ASK, "user": user})
            assert (status, problem["field"]) == (422, "user")
            status, problem = await at.client.post("/v1/decide", {**DECIDE, "user_id": user})
            assert (status, problem["field"]) == (422, "user_id")
            # What is only passed on is the arm's to judge.
            assert (await at.client.send(CHAT, {**ASK, "user": user, "model": "small"}))[0] == 200

    run(scenario())


def test_retries_stay_in_the_variant_of_their_first_try(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            await stage(at, split=halves("request"))
            at.fail("500", *ARMS)
            for _ in range(24):
                await at.client.send(CHAT, ASK)
            await at.outcomes(72)
            rows = {row["decision_id"]: row for row in at.plane.decisions}
            retried = [row for row in rows.values() if row["mode"] == "retry"]
            assert len(retried) == 48
            for row in retried:
                before = rows[row["retry_of"]]
                assert (row["variant"], row["unit"]) == (before["variant"], before["unit"])
            assert {row["variant"] for row in rows.values()} == {"new", "old"}

    run(scenario())


def test_a_challenger_or_shadow_that_cannot_read_a_request_is_counted(tmp_path):
    async def scenario():
        async with Ready(tmp_path) as at:
            bundle = await stage(at, split=halves("user"), shadows=(8, 9), odd=(7, 8))
            asked, news = USERS * 5, 0
            for user in asked:
                _, headers, _ = await at.client.send(CHAT, {**ASK, "user": user})
                assert headers["x-route-policy"] == f"chat@{bundle.version}"
                news += headers["x-route-variant"] == "prices/new"
            await at.outcomes(len(asked))
            scraped = (await at.client.get("/metrics"))[1]
            assert (
                f'pointsman_edge_challenger_errors_total{{policy="chat"}} {float(news)}' in scraped
            )
            assert f'shadow_errors_total{{policy="chat"}} {float(len(asked))}' in scraped
            agree = sum(row["shadows"][0]["action"] == row["action"] for row in at.plane.decisions)
            name = "pointsman_edge_shadow_choices_total"
            assert 0 < agree < len(asked)
            assert f'{name}{{agrees="1",policy="chat"}} {float(agree)}' in scraped
            assert f'{name}{{agrees="0",policy="chat"}} {float(len(asked) - agree)}' in scraped

    run(scenario())


def test_a_champion_that_decides_for_its_own_variant_is_no_error():
    metrics, bundle = Metrics(), staged(split=halves("request"))
    for _ in range(20):
        at = now()
        found = decide(bundle, {}, decision_id=new_id(at), at=at, eligible=ARMS)
        metrics.count_asked(bundle, found)
    assert metrics.registry.get_sample_value(
        "pointsman_edge_challenger_errors_total", {"policy": "chat"}
    ) in {None, 0.0}


def test_variants_past_the_limit_are_counted_together():
    metrics = Metrics()
    for number in range(MAX_VARIANTS + 3):
        metrics.count_variant("chat", "prices", f"v{number}")
    metrics.count_variant("chat", "prices", "v0")
    name = "pointsman_edge_variant_decisions_total"

    def value(split: str, variant: str) -> float | None:
        labels = {"policy": "chat", "split": split, "variant": variant}
        return metrics.registry.get_sample_value(name, labels)

    assert value("prices", "v0") == 2
    assert value("other", "other") == 3
