import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from edge.app import new_id, now
from edge.spool import Spool
from tests.edge.doubles import control_plane, edge, eventually, make_bundle

ASK = {"policy": "chat", "context": {}}


@asynccontextmanager
async def ready(tmp_path, **changes):
    async with control_plane() as plane:
        plane.publish(make_bundle())
        async with edge(plane.url, tmp_path, **changes) as client:
            await client.ready()
            yield plane, client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 30))


async def decide(client, count: int) -> list[str]:
    return [(await client.post("/v1/decide", ASK))[1]["decision_id"] for _ in range(count)]


def ids(plane) -> list[str]:
    return [row["decision_id"] for row in plane.decisions]


def test_what_is_decided_while_the_control_plane_is_away_arrives_later_in_order(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            plane.refuse_with = 503
            wanted = await decide(client, 30)
            await eventually(lambda: plane.statuses and plane.statuses[-1]["spool_depth"] == 30)
            assert plane.statuses[-1]["lag_s"] > 0
            assert ids(plane) == []
            plane.refuse_with = None
            await eventually(lambda: len(plane.decisions) >= 30)
            assert ids(plane) == wanted
            await eventually(lambda: plane.statuses[-1]["spool_depth"] == 0)
            assert plane.statuses[-1]["lag_s"] == 0
            assert plane.authorizations == {"Bearer pm_edge_secret"}

    run(scenario())


def test_a_wrong_key_keeps_the_log_until_it_is_right(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            for status in (401, 403, 429, 500):
                plane.refuse_with = status
                await decide(client, 1)
                await asyncio.sleep(0.1)
            plane.refuse_with = None
            await eventually(lambda: len(plane.decisions) == 4)

    run(scenario())


def test_a_rejected_line_is_dropped_and_counted_and_the_others_stay(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            bad = new_id(now())
            plane.reject_ids.add(bad)
            await client.post("/v1/decide", {**ASK, "decision_id": bad})
            wanted = await decide(client, 3)
            await eventually(lambda: len(plane.decisions) == 3)
            assert ids(plane) == wanted
            line = 'pointsman_edge_dropped_total{kind="decision",reason="rejected"} 1.0'
            assert line in (await client.get("/metrics"))[1]

    run(scenario())


def test_a_line_that_spoils_its_batch_is_set_aside_and_the_others_arrive(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            bad = new_id(now())
            plane.refuse_with = 503
            plane.poison_ids.add(bad)
            wanted = await decide(client, 5)
            await client.post("/v1/decide", {**ASK, "decision_id": bad})
            wanted += await decide(client, 6)
            plane.refuse_with = None
            await eventually(lambda: len(plane.decisions) >= 11)
            assert sorted(set(ids(plane))) == sorted(wanted)
            line = 'pointsman_edge_dropped_total{kind="decision",reason="refused"} 1.0'

            async def counted():
                return line in (await client.get("/metrics"))[1]

            await eventually(counted)
        kept = (tmp_path / "spool" / "refused.log").read_text().splitlines()
        assert [json.loads(row)["decision"]["decision_id"] for row in kept] == [bad]

    run(scenario())


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_would_be_refused_again_does_not_block_what_comes_later(tmp_path, status):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            plane.refuse_with = status
            await decide(client, 2)
            line = 'pointsman_edge_dropped_total{kind="decision",reason="refused"} 2.0'

            async def dropped():
                return line in (await client.get("/metrics"))[1]

            await eventually(dropped)
            plane.refuse_with = None
            wanted = await decide(client, 1)
            await eventually(lambda: ids(plane) == wanted)

    run(scenario())


def test_a_segment_removed_by_hand_is_counted_and_the_upload_goes_on(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            plane.refuse_with = 503
            await decide(client, 3)
            for path in (tmp_path / "spool").glob("*.ndjson"):
                path.unlink()
            status, scraped = await client.get("/metrics")
            assert (status, "pointsman_edge_upload_lag_seconds" in scraped) == (200, True)
            line = 'pointsman_edge_dropped_total{kind="unknown",reason="damaged"} 3.0'

            async def dropped():
                return line in (await client.get("/metrics"))[1]

            await eventually(dropped)
            plane.refuse_with = None
            wanted = await decide(client, 2)
            await eventually(lambda: ids(plane) == wanted)

    run(scenario())


def test_a_spool_that_cannot_be_read_breaks_neither_metrics_nor_status(tmp_path):
    async def scenario():
        async with ready(tmp_path) as (plane, client):
            plane.refuse_with = 503
            await decide(client, 1)
            (segment,) = (tmp_path / "spool").glob("*.ndjson")
            segment.unlink()
            segment.mkdir()
            assert (await client.get("/metrics"))[0] == 200
            told = len(plane.statuses)
            await eventually(lambda: len(plane.statuses) > told + 1)

    run(scenario())


def test_a_full_spool_goes_on_serving_and_counts_what_is_lost(tmp_path):
    async def scenario():
        async with ready(tmp_path, max_spool_bytes=64 * 1024) as (plane, client):
            plane.refuse_with = 503
            ask = {"policy": "chat", "context": {"note": "x" * 1000}}
            for _ in range(80):
                assert (await client.post("/v1/decide", ask))[0] == 200
            scraped = (await client.get("/metrics"))[1]
            assert 'dropped_total{kind="decision",reason="spool_full"}' in scraped
            lost = float(scraped.split('reason="spool_full"} ')[1].split("\n")[0])
            plane.refuse_with = None
            await eventually(lambda: len(plane.decisions) == 80 - lost)

    run(scenario())


def test_what_an_earlier_process_left_is_uploaded_by_the_next(tmp_path):
    left = Spool(tmp_path / "spool", max_bytes=10**7)
    for number in range(3):
        left.append("outcome", json.dumps({"decision_id": str(number)}).encode())
        left.append("decision", json.dumps({"decision_id": str(number)}).encode())
    left.close()

    async def scenario():
        async with ready(tmp_path) as (plane, _):
            await eventually(lambda: len(plane.outcomes) == 3)
            # Of one batch the decisions go first.
            assert [kind for kind, _ in plane.arrivals] == ["decisions"] * 3 + ["outcomes"] * 3

    run(scenario())


def test_stopping_uploads_what_waits(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            plane.publish(make_bundle())
            async with edge(plane.url, tmp_path, upload_interval_s=60) as client:
                await client.ready()
                wanted = await decide(client, 3)
                assert ids(plane) == []
            assert ids(plane) == wanted

    run(scenario())
