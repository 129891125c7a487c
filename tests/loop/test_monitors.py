"""Monitors with the real programs: an arm breaks, it is found, and what is declared is done."""

from typing import Any

import pytest

from controlplane.simulation.world import default_world
from tests.loop.installation import Installation, wait_until

LOOK = {"detectors": False, "patience": 1, "sigmas": 4.0}
OFF = {"enabled": False}
MONITORS: dict[str, Any] = {
    **dict.fromkeys(("context", "action_mix", "feedback", "propensity"), OFF),
    "reward": {**LOOK, "reference": 300, "window": 100, "reaction": "revert"},
    "arm_reward": {**LOOK, "reference": 600, "window": 100, "reaction": "freeze"},
    "hold_s": 3_600,
}


@pytest.mark.soak
def test_arms_that_break_are_found_freeze_the_policy_and_bring_the_champion_before_back(
    installation: Installation,
) -> None:
    base = f"/v1/policies/{installation.policy}"
    # What is to come is the monitors' doing, and no further round's.
    learned = installation.learn_once({"monitors": MONITORS})
    for seed in range(1, 4):
        installation.send(250, seed=seed)
    assert findings(installation) == []
    assert installation.champion() == learned
    serial = installation.items("bundles")[0]["serial"]

    for arm in default_world().arm_names:
        installation.pull_levers(arm, failure_rate=0.8)
    for seed in range(4, 12):
        installation.send(150, seed=seed)
        if {"freeze", "revert"} <= {one["reaction"] for one in findings(installation)}:
            break
    told = {one["reaction"]: one for one in findings(installation)}
    assert told["revert"]["monitor"] == "reward"
    assert told["revert"]["numbers"]["side"] == -1
    assert "version 1 serves again" in told["revert"]["summary"]
    assert installation.champion() == 1
    assert installation.items("bundles")[0]["serial"] > serial
    assert installation.call("GET", base)["auto_promote"] is False
    assert told["freeze"]["monitor"] == "arm_reward"
    assert told["freeze"]["numbers"]["value"] > told["freeze"]["numbers"]["bound"]
    assert "frozen" in installation.call("GET", f"{base}/findings")["overrides"]
    wait_until(lambda: served(installation) >= installation.items("bundles")[0]["serial"], 30)
    installation.call("POST", f"{base}/unfreeze")
    assert "frozen" not in installation.call("GET", f"{base}/findings")["overrides"]


def findings(installation: Installation) -> list[dict[str, Any]]:
    return [one for one in installation.items("findings") if one["severity"] == "alarm"]


def served(installation: Installation) -> int:
    """The serial that the edge says it serves."""
    return int(installation.own_edge()["active"].get(installation.policy, 0))
