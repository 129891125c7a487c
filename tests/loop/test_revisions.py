"""Revisions with the real programs: the champion learns on, within its trust region."""

from typing import Any

import pytest

from tests.loop.installation import Installation

MAX_SHIFT = 0.05
RELEASE: dict[str, Any] = {"stages": [], "watch_decisions": 100, "margin": 0.5, "cooldown_s": 0}
REVISE = {"every_s": 60, "max_shift": MAX_SHIFT, "min_rows": 50, "contexts": 200}


@pytest.mark.soak
def test_the_champion_learns_on_and_serves_under_a_higher_serial_within_its_trust_region(
    installation: Installation,
) -> None:
    first = installation.learn_once({"release": RELEASE}, revise=REVISE)
    serial = installation.items("bundles")[0]["serial"]
    for seed in range(1, 12):
        installation.send(200, seed=seed, rate_per_s=20)
        if installation.champion() != first:
            break
    revised = installation.champion()
    assert revised > first
    version = installation.call("GET", f"/v1/policies/{installation.policy}/versions/{revised}")
    made = version["config"]["revision"]
    assert (version["parent"], made["of"]) == (first, first)
    assert 0 < made["shift"] <= MAX_SHIFT + 1e-6
    assert made["shift"] <= made["whole_shift"] + 1e-6
    bundle = [one for one in installation.items("bundles") if one["version"] == revised][-1]
    assert bundle["serial"] > serial
    assert bundle["reason"] == f"revision of version {first}"

    for seed in range(20, 30):
        installation.send(150, seed=seed)
        if installation.items("releases")[0]["status"] != "watching":
            break
    release = installation.items("releases")[0]
    assert release["status"] == "completed", release["reason"]
    of = {"version": revised, "serial": bundle["serial"]}
    [decided] = installation.column(
        "SELECT count(*) FROM decisions "
        "WHERE policy_id = :policy AND version = :version AND serial >= :serial",
        **of,
    )
    assert decided >= RELEASE["watch_decisions"]
    [floor] = installation.column(
        "SELECT min((SELECT min(p) FROM unnest(distribution) p)) FROM decisions "
        "WHERE policy_id = :policy AND version = :version AND serial >= :serial "
        "AND mode = 'policy'",
        **of,
    )
    assert floor >= 0.1 / 5 - 1e-6, "the floor of exploration holds in a mixture too"
