"""A release with the real programs: edges draw the canary, workers look, the champion changes."""

from typing import Any

import pytest

from tests.loop.installation import Installation, wait_until

LADDER = {
    "stages": [0, 0.5, 1],
    "unit": "request",
    "min_decisions": 100,
    "min_rewarded": 100,
    "min_seconds": 1,
    "margin": 0.3,
    "guardrails": [{"metric": "error", "kind": "rate", "margin": 0.1, "shown": False}],
    "watch_decisions": 100,
}


@pytest.mark.soak
def test_a_round_begins_a_release_that_climbs_to_champion_on_live_traffic(
    installation: Installation,
) -> None:
    base = f"/v1/policies/{installation.policy}"
    installation.declare(release=LADDER)
    installation.send(900)

    def release() -> dict[str, Any]:
        found = installation.items("releases")
        return found[-1] if found else {"status": "none", "stage_name": ""}

    wait_until(lambda: release()["status"] == "running", 60)
    version = release()["version"]
    assert installation.call("GET", f"{base}/status")["champion"]["version"] == 1
    for seed in range(1, 20):
        installation.send(200, seed=seed)
        if release()["status"] not in {"running", "watching"}:
            break
    found = release()
    assert found["status"] == "completed", found["reason"]
    verdicts = installation.call("GET", f"{base}/releases/{found['number']}")["verdicts"]
    assert [(one["gate"], one["passed"]) for one in reversed(verdicts)] == [
        ("release", True), ("shadow", True), ("canary 50 %", True), ("watch", True),
    ]  # fmt: skip
    [share] = installation.column(
        "SELECT count(*) FILTER (WHERE variant = 'canary')::float8 / count(*) FROM decisions "
        "WHERE policy_id = :policy AND split = 'canary'"
    )
    assert 0.4 < share < 0.6
    decided = installation.column(
        "SELECT DISTINCT version FROM decisions "
        "WHERE policy_id = :policy AND variant = 'canary' AND split = 'canary'"
    )
    assert decided == [version]
