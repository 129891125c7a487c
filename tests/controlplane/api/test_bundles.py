import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from learners.bundle import unseal
from tests.controlplane.api.conftest import ARMS, SIGNER, Api

PATH = "/v1/bundles/chat"
ARM = {"model": "m", "endpoint": "http://127.0.0.1:9/v1"}


def test_an_edge_pulls_a_bundle_that_it_can_verify(api: Api) -> None:
    api.declare()
    answer = api("GET", PATH, scope="edge")
    assert answer.status_code == 200
    bundle = unseal(answer.content, [SIGNER.public_key()])
    assert (bundle.policy, bundle.version, bundle.serial) == ("chat", 1, 1)
    assert tuple(arm.name for arm in bundle.arms) == ARMS
    assert answer.headers["etag"] == f'"1-{bundle.digest[:16]}"'
    bundle.self_test()


def test_the_same_bundle_is_304_without_a_body(api: Api) -> None:
    api.declare()
    etag = api("GET", PATH).headers["etag"]
    for header in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = api("GET", PATH, if_none_match=header)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert api("GET", PATH, if_none_match='"0-x"').status_code == 200


def test_a_waiting_edge_is_woken_by_a_publication_within_a_second(api: Api) -> None:
    api.declare()
    etag = api("GET", PATH).headers["etag"]
    published = 0.0

    def publish() -> None:
        nonlocal published
        time.sleep(0.7)
        published = time.monotonic()
        api.ok("PUT", "/v1/pools/main/arms/third", ARM)

    publisher = threading.Thread(target=publish)
    publisher.start()
    answer = api("GET", PATH, if_none_match=etag, prefer="wait=30")
    woken = time.monotonic()
    publisher.join()
    assert answer.status_code == 200
    assert answer.headers["etag"].startswith('"2-')
    print(f"woken {woken - published:.2f} s after the publication began")
    assert woken - published < 10  # the poll is each 0.5 s; a loaded machine is slower


def test_many_wait_at_once_and_all_are_woken(api: Api) -> None:
    api.declare()
    etag = api("GET", PATH).headers["etag"]

    def wait(_: int) -> Any:
        return api("GET", PATH, if_none_match=etag, prefer="wait=30").status_code

    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(wait, number) for number in range(60)]
        time.sleep(1)
        assert api.ok("GET", "/v1/policies/chat")["name"] == "chat"  # nobody is starved meanwhile
        api.ok("PUT", "/v1/pools/main/arms/third", ARM)
        assert {one.result(30) for one in waiting} == {200}


def test_a_wait_that_sees_nothing_new_ends_with_304(api: Api) -> None:
    api.declare()
    etag = api("GET", PATH).headers["etag"]
    began = time.monotonic()
    answer = api("GET", PATH, if_none_match=etag, prefer="respond-async, wait=1")
    assert answer.status_code == 304
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("prefer", ["wait=", "wait=-1", "wait=x", "await=30", "wait=99999", ""])
def test_a_preference_that_cannot_be_read_is_none(api: Api, prefer: str) -> None:
    api.declare()
    etag = api("GET", PATH).headers["etag"]
    began = time.monotonic()
    assert api("GET", PATH, if_none_match=etag, prefer=prefer).status_code == 304
    assert time.monotonic() - began < 10


def test_a_policy_without_a_bundle_is_404(api: Api) -> None:
    answer = api("GET", PATH, prefer="wait=30")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_edge_reports_and_its_newest_word_is_listed(api: Api) -> None:
    body = {
        "active": {"chat": 3},
        "nack": [
            {"policy": "chat", "serial": 4, "reason": "golden vector 2 is off", "fault": None}
        ],
        "lag_s": 0.5,
        "spool_depth": 12,
        "version": "0.1.0",
    }
    assert api("POST", "/v1/edges/edge-1/status", body, scope="edge").status_code == 204
    api.ok("POST", "/v1/edges/edge-2/status", {}, scope="edge")
    api.ok("POST", "/v1/edges/edge-1/status", {**body, "lag_s": 0.7}, scope="edge")
    found = api.ok("GET", "/v1/edges", scope="read")["items"]
    assert [edge["edge_id"] for edge in found] == ["edge-1", "edge-2"]
    assert {**body, "lag_s": 0.7}.items() <= found[0].items()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"active": {"chat": -1}}, "active.chat"),
        ({"lag_s": -1}, "lag_s"),
        ({"nack": [{"policy": "chat", "serial": 1, "reason": "x" * 2_001}]}, "nack.0.reason"),
        ({"active": {f"p{i}": 1 for i in range(201)}}, "active"),
        ({"edge_id": "another"}, "edge_id"),
        ({"version": "\x00"}, "version"),
    ],
)
def test_a_report_that_cannot_be_kept_names_its_field(api: Api, body: Any, field: str) -> None:
    answer = api("POST", "/v1/edges/edge-1/status", body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_an_edge_is_named_by_a_plain_id(api: Api) -> None:
    assert api("POST", "/v1/edges/a%20b/status", {}).status_code == 422
