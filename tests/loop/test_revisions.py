"""Revisions with the real programs: the champion learns on, within its trust region."""

from typing import Any

import pytest

from tests.loop.installation import GATE, Installation

MAX_SHIFT = 0.05
RELEASE: dict[str, Any] = {"stages": [], "watch_decisions": 100, "margin": 0.5, "cooldown_s": 0}
REVISE = {"every_s": 60, "max_shift": MAX_SHIFT, "min_rows": 50, "contexts": 200}


@pytest.mark.soak
def test_the_champion_learns_on_and_serves_under_a_higher_serial_within_its_trust_region(
    installation: Installation,
) -> None:
    base = f"/v1/policies/{installation.policy}"
    installation.declare(release=RELEASE)
    installation.send_until(lambda: installation.champion() > 1)
    first = installation.champion()
    # From here on it is revised, and no further round replaces it.
    installation.configure(
        auto_promote=True, release=RELEASE, revise=REVISE, gate={**GATE, "growth": 10}
    )
    serial = installation.call("GET", f"{base}/bundles?limit=1")["items"][0]["serial"]
    for seed in range(1, 12):
        installation.send(200, seed=seed, rate_per_s=20)
        if installation.champion() != first:
            break
    revised = installation.champion()
    assert revised > first
    version = installation.call("GET", f"{base}/versions/{revised}")
    made = version["config"]["revision"]
    assert (version["parent"], made["of"]) == (first, first)
    assert 0 < made["shift"] <= MAX_SHIFT + 1e-6
    assert made["shift"] <= made["whole_shift"] + 1e-6
    bundle = published(installation, revised)
    assert bundle["serial"] > serial
    assert bundle["reason"] == f"revision of version {first}"

    for seed in range(20, 30):
        installation.send(150, seed=seed)
        if release(installation)["status"] != "watching":
            break
    assert release(installation)["status"] == "completed", release(installation)["reason"]
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


def published(installation: Installation, version: int) -> dict[str, Any]:
    """The first bundle in which a version serves."""
    found = installation.call("GET", f"/v1/policies/{installation.policy}/bundles")["items"]
    return dict([one for one in found if one["version"] == version][-1])


def release(installation: Installation) -> dict[str, Any]:
    found = installation.call("GET", f"/v1/policies/{installation.policy}/releases")["items"]
    return dict(found[0])
