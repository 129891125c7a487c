"""Experiments with the real programs: an A/A and a better version, on units that an edge draws."""

from typing import Any

import httpx
import pytest

from learners.contrasts import SRM_ALARM
from tests.loop.installation import Installation, wait_until

SESSIONS = [f"session-{number}" for number in range(60)]
AA = [{"name": "left", "share": 0.5}, {"name": "right", "share": 0.5}]


@pytest.mark.soak
def test_a_better_version_is_found_an_equal_one_is_not_and_sessions_stick_over_a_restart(
    installation: Installation,
) -> None:
    installation.declare(auto_promote=False)
    installation.send_until(lambda: learned(installation) > 1)
    better = learned(installation)
    sides = [{"name": "old", "share": 0.5}, {"name": "new", "share": 0.5, "version": better}]
    more = {"difference": 0.1, "look_s": 1, "unproven": True, "auto_stop": False}
    aa = begin(installation, {"name": "alike", "variants": AA, "aa": True, "share": 0.3, **more})
    ab = begin(installation, {"name": "better", "variants": sides, "share": 0.7, **more})
    wait_until(lambda: all(variants(installation, SESSIONS[:5])), 30)

    before = variants(installation, SESSIONS)
    assert {one.split("/")[0] for one in before} == {"alike", "better"}
    installation.kill("edge")
    installation.start("edge")
    assert variants(installation, SESSIONS) == before

    for seed in range(1, 12):
        installation.send(300, seed=seed)
        if decided(installation, ab) is not None:
            break
    wait_until(lambda: decided(installation, ab) is not None, 60)
    assert decided(installation, ab) == "better"
    found = installation.call("GET", f"/v1/experiments/{ab}")["result"]
    assert found["winner"] == "new"
    assert found["variants"][0]["difference"]["low"] > 0
    assert set(found["counts"]["new"]["versions"]) == {str(better)}
    nothing = installation.call("GET", f"/v1/experiments/{aa}")
    assert (nothing["decided"], nothing["result"]["status"]) == (None, "running")
    for one in (found, nothing["result"]):
        assert one["split_p_value"] >= SRM_ALARM
    told = installation.items("findings")
    assert [one for one in told if one["monitor"] == "split"] == []
    listed = {row["number"]: row["state"] for row in installation.items("versions")}
    assert listed[better] == "experiment"
    for one in (aa, ab):
        installation.call("POST", f"/v1/experiments/{one}/stop")


def learned(installation: Installation) -> int:
    """The newest version that a learner made; 0 while there is none."""
    found = [row["number"] for row in installation.items("versions") if row["learner"] == "linucb"]
    return max(found, default=0)


def begin(installation: Installation, body: dict[str, Any]) -> str:
    made = installation.call("POST", f"/v1/policies/{installation.policy}/experiments", body)
    return str(made["id"])


def decided(installation: Installation, experiment: str) -> str | None:
    found = installation.call("GET", f"/v1/experiments/{experiment}")["decided"]
    return None if found is None else str(found["status"])


def variants(installation: Installation, sessions: list[str]) -> list[str]:
    """The split and variant that each session meets at the edge; empty without one."""
    body = {
        "model": f"route/{installation.policy}",
        "messages": [{"role": "user", "content": "Reverse a list."}],
    }
    found = []
    for session in sessions:
        answer = httpx.post(
            f"{installation.edge_url}/v1/chat/completions",
            json=body,
            headers={"x-route-session-id": session},
            timeout=30,
        )
        found.append(answer.headers.get("x-route-variant", ""))
    return found
