import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Never

import numpy as np
import pytest

from edge import puller
from edge.app import again
from edge.backoff import Backoff
from edge.shelf import Kept, Shelf
from learners.bundle import MAX_BUNDLE_BYTES, seal
from learners.features import Schema
from learners.lineup import Golden
from learners.scorers.linear import Linear
from tests.edge.doubles import (
    ARMS,
    FOREIGN_KEY,
    KEY,
    control_plane,
    edge,
    eventually,
    make_bundle,
    replaced,
    settings,
)

ASK = {"policy": "chat", "context": {}}


@asynccontextmanager
async def serving(tmp_path, *, serial=5, **changes):
    """An edge that has taken up a first bundle."""
    async with control_plane() as plane:
        plane.publish(make_bundle(serial=serial))
        async with edge(plane.url, tmp_path, **changes) as client:
            await client.ready()
            yield plane, client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 30))


async def served_serial(client) -> int:
    _, found = await client.post("/v1/decide", ASK)
    return int(found["policy"]["serial"])


def tampered(serial: int) -> bytes:
    data = bytearray(seal(make_bundle(serial=serial), [KEY]))
    data[data.index(b'"fallback_arm":"small"') + 18] ^= 1
    return bytes(data)


def other_tensors(serial: int) -> bytes:
    data = bytearray(seal(make_bundle(serial=serial), [KEY]))
    data[-1] ^= 1
    return bytes(data)


def signed(**changes) -> bytes:
    return seal(replaced(make_bundle(serial=6), **changes), [KEY])


def wrong_golden() -> bytes:
    return signed(golden=(Golden({}, ARMS, (0.2, 0.3, 0.5)),))


def impossible_golden() -> bytes:
    return signed(golden=(Golden({}, ("nobody",), (1.0,)),))


def no_number_golden() -> bytes:
    # Signed, and of the right form but for its numbers: no error of ours, a TypeError of numpy's.
    return signed(golden=(Golden({}, ARMS, (None, None, None)),))  # type: ignore[arg-type]


def expired() -> bytes:
    return seal(make_bundle(serial=6, expires_in=timedelta(seconds=-1)), [KEY])


REFUSED = {
    "altered": (tampered(6), "signed the bundle"),
    "altered tensors": (other_tensors(6), "tensors do not match"),
    "of a foreign key": (seal(make_bundle(serial=6), [FOREIGN_KEY]), "signed the bundle"),
    "cut short": (seal(make_bundle(serial=6), [KEY])[:200], "cut short"),
    "no bundle": (b"<html>", "not a bundle"),
    "failing its golden vector": (wrong_golden(), "golden vector 0 is off"),
    "with a golden vector of no arm": (impossible_golden(), "golden vector"),
    "with a golden vector of no numbers": (no_number_golden(), "cannot be examined"),
    "without golden vectors": (signed(golden=()), "no golden vector"),
    "expired": (expired(), "expired at"),
    "of an older serial": (seal(make_bundle(serial=4), [KEY]), "does not rise above 5"),
    "of the same serial": (
        seal(make_bundle(serial=5, arms=("small", "large")), [KEY]),
        "does not rise above 5",
    ),
    "of another policy": (seal(make_bundle(policy="tools", serial=6), [KEY]), "of policy 'tools'"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_bad_bundle_is_refused_loudly_and_the_last_good_one_serves_on(tmp_path, how):
    data, reason = REFUSED[how]

    async def scenario():
        async with serving(tmp_path) as (plane, client):
            plane.publish_bytes("chat", data, "6-bad")
            await eventually(lambda: plane.statuses[-1]["nack"])
            (nack,) = plane.statuses[-1]["nack"]
            assert nack["policy"] == "chat"
            assert reason in nack["reason"]
            own = ("golden vector", "cannot be examined")
            assert nack["fault"] == ("bundle" if any(one in reason for one in own) else "edge")
            assert plane.statuses[-1]["active"] == {"chat": 5}
            assert await served_serial(client) == 5
            asked = plane.bundle_requests
            await asyncio.sleep(0.3)
            assert plane.bundle_requests - asked <= 2, "a refused bundle is not asked for in a loop"
            # The next good one is taken up at once, and settles the refusal.
            plane.publish(make_bundle(serial=7))
            await eventually(lambda: plane.statuses[-1]["active"] == {"chat": 7})
            assert plane.statuses[-1]["nack"] == []
            assert await served_serial(client) == 7

    run(scenario())


def test_a_bundle_past_the_limit_is_refused_without_being_read(tmp_path):
    async def scenario():
        async with serving(tmp_path, max_bundle_bytes=64 * 1024) as (plane, client):
            plane.publish_bytes("chat", b"x" * 1024 * 1024, "6-large")
            await eventually(lambda: plane.statuses[-1]["nack"])
            (nack,) = plane.statuses[-1]["nack"]
            assert (nack["serial"], "larger than 65536" in nack["reason"]) == (6, True)
            assert nack["fault"] == "bundle"
            assert await served_serial(client) == 5

    run(scenario())


def test_a_new_bundle_is_taken_up_while_requests_run(tmp_path):
    async def scenario():
        async with serving(tmp_path) as (plane, client):
            seen = set()
            for serial in range(6, 12):
                plane.publish(make_bundle(serial=serial))
                for _ in range(5):
                    seen.add(await served_serial(client))
                await eventually(lambda: plane.statuses[-1]["active"] == {"chat": serial})  # noqa: B023
            assert await served_serial(client) == 11
            assert seen <= set(range(5, 12))
            status = plane.statuses[-1]
            assert set(status) == {"active", "nack", "lag_s", "spool_depth", "version"}

    run(scenario())


def test_an_edge_boots_from_its_disk_when_the_control_plane_is_away(tmp_path, unused_port):
    async def scenario():
        async with serving(tmp_path):
            pass
        async with edge(f"http://127.0.0.1:{unused_port}", tmp_path) as client:
            assert (await client.get("/readyz"))[0] == 200
            assert await served_serial(client) == 5

    run(scenario())


def test_an_expired_bundle_of_the_disk_serves_its_fallback_arm(tmp_path, unused_port):
    bundle = make_bundle(serial=5, expires_in=timedelta(seconds=-1))
    Shelf(tmp_path / "bundles").keep("chat", seal(bundle, [KEY]), etag=None, serial=5)

    async def scenario():
        async with edge(f"http://127.0.0.1:{unused_port}", tmp_path) as client:
            _, found = await client.post("/v1/decide", ASK)
            assert (found["mode"], found["action"]) == ("fallback", "small")

    run(scenario())


@pytest.mark.parametrize("what", ["damaged", "older", "foreign"])
def test_what_the_disk_holds_is_believed_no_more_than_what_is_pulled(tmp_path, what, unused_port):
    data = {
        "damaged": tampered(5),
        "older": seal(make_bundle(serial=3), [KEY]),
        "foreign": seal(make_bundle(serial=5), [FOREIGN_KEY]),
    }[what]
    Shelf(tmp_path / "bundles").keep("chat", data, etag='"5-x"', serial=5)

    async def scenario():
        async with edge(f"http://127.0.0.1:{unused_port}", tmp_path) as client:
            assert (await client.post("/v1/decide", ASK))[0] == 503
        # The mark survives, so the control plane's good one of that serial is asked for and taken.
        async with serving(tmp_path) as (_, client):
            assert await served_serial(client) == 5

    run(scenario())


def test_the_highest_serial_survives_a_restart(tmp_path):
    async def scenario():
        async with serving(tmp_path, serial=9):
            pass
        async with control_plane() as plane:
            plane.publish(make_bundle(serial=8))
            async with edge(plane.url, tmp_path) as client:
                await eventually(lambda: plane.statuses and plane.statuses[-1]["nack"])
                assert await served_serial(client) == 9

    run(scenario())


def test_a_bundle_that_is_known_already_is_no_refusal(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            bundle = make_bundle(serial=5)
            plane.publish(bundle)
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                plane.publish_bytes("chat", seal(bundle, [KEY]), "another-name")
                asked = plane.bundle_requests
                await eventually(lambda: plane.bundle_requests > asked)
                await asyncio.sleep(0.2)
                assert plane.statuses[-1]["nack"] == []

    run(scenario())


def test_going_back_to_the_bundle_that_serves_settles_a_refusal(tmp_path):
    async def scenario():
        async with serving(tmp_path) as (plane, client):
            good, etag = plane.sealed["chat"]
            plane.publish_bytes("chat", b"<html>", "6-bad")
            await eventually(lambda: plane.statuses[-1]["nack"])
            plane.publish_bytes("chat", good, etag.strip('"'))
            await eventually(lambda: plane.statuses[-1]["nack"] == [])
            assert await served_serial(client) == 5
            asked = plane.bundle_requests
            await asyncio.sleep(0.3)
            assert plane.bundle_requests - asked <= 2, "what is served is not asked for in a loop"

    run(scenario())


def test_a_refusal_is_settled_by_the_control_planes_no_news_of_what_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(puller, "REFUSED_FOR_S", 0.0)  # so that the bundle that serves is named

    async def scenario():
        async with serving(tmp_path, poll_wait_s=0) as (plane, _):
            good = plane.sealed["chat"]
            plane.publish_bytes("chat", b"<html>", "6-bad")
            await eventually(lambda: plane.statuses[-1]["nack"])
            plane.sealed["chat"] = good
            await eventually(lambda: plane.statuses[-1]["nack"] == [])

    run(scenario())


def test_a_bundle_that_cannot_be_examined_on_the_disk_does_not_stop_the_edge(tmp_path, unused_port):
    Shelf(tmp_path / "bundles").keep("chat", no_number_golden(), etag=None, serial=6)

    async def scenario():
        async with edge(f"http://127.0.0.1:{unused_port}", tmp_path) as client:
            assert (await client.get("/healthz"))[0] == 200
            assert (await client.post("/v1/decide", ASK))[0] == 503

    run(scenario())


def test_an_edge_takes_every_bundle_that_can_be_sealed():
    found = settings("http://127.0.0.1", Path("unused"))
    assert found.max_bundle_bytes == MAX_BUNDLE_BYTES


def test_a_job_that_dies_again_and_again_waits_longer_each_time(monkeypatch):
    delays: list[float] = []

    async def note(delay: float) -> None:
        delays.append(delay)
        if len(delays) == 10:
            raise asyncio.CancelledError

    async def die() -> Never:
        raise ValueError("a bug")

    monkeypatch.setattr(asyncio, "sleep", note)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(again(die, "pull chat", Backoff(1.0, 60.0)))
    for delay, longest in zip(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert longest / 2 <= delay <= longest


def test_one_policy_without_a_bundle_does_not_stop_another(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            plane.publish(make_bundle(serial=5))
            async with edge(plane.url, tmp_path, policies="chat,tools") as client:
                await eventually(lambda: plane.statuses and plane.statuses[-1]["active"])
                assert await served_serial(client) == 5
                status, problem = await client.get("/readyz")
                assert (status, "tools" in problem["detail"]) == (503, True)
                plane.publish(make_bundle(policy="tools"))
                await client.ready()
                models = (await client.get("/v1/models"))[1]["data"]
                assert {"route/chat", "route/tools"} < {row["id"] for row in models}

    run(scenario())


def test_a_schema_of_other_features_gives_zeros_for_what_a_chat_does_not_have(tmp_path):
    schema = Schema.from_json([{"name": "unheard_of", "kind": "vector", "size": 74}])

    async def scenario():
        async with control_plane() as plane:
            bundle = make_bundle()
            weights = np.ones((3, schema.dimension))
            scorer = Linear(ARMS, weights, bundle.scorer.exploration)
            odd = replaced(bundle, schema=schema, scorer=scorer, golden=())
            even = tuple(odd.distribution({}, ARMS).tolist())
            plane.publish(replaced(odd, golden=(Golden({}, ARMS, even),)))
            async with edge(plane.url, tmp_path) as client:
                await client.ready()
                status, _ = await client.post("/v1/decide", {"policy": "chat", "input": "hello"})
                assert status == 200

    run(scenario())


def test_a_damaged_mark_does_not_stop_the_shelf(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.keep("chat", b"data", etag='"5-x"', serial=5)
    assert (shelf.serial("chat"), shelf.bundle("chat")) == (5, Kept(b"data", '"5-x"'))
    Path(tmp_path, "chat.json").write_bytes(b"{")
    assert (shelf.serial("chat"), shelf.bundle("chat")) == (0, Kept(b"data", None))
    assert (shelf.serial("other"), shelf.bundle("other")) == (0, None)


def test_delays_double_up_to_the_highest_and_begin_again():
    backoff = Backoff(1.0, 8.0)
    delays = [backoff.next() for _ in range(40)]
    for delay, longest in zip(delays, [1, 2, 4] + [8] * 37, strict=True):
        assert longest / 2 <= delay <= longest
    backoff.reset()
    assert backoff.next() <= 1
