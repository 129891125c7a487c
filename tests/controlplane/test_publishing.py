from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from controlplane import publishing, registry
from controlplane.config import PolicyConfig, ShadowDispatchConfig
from controlplane.errors import GateError, InvalidError, NotFoundError, StaleError
from controlplane.publishing import ROLLBACK, Publisher, predecessor
from learners.bundle import unseal
from learners.lineup import Dispatch
from learners.records import Card
from storage import versions
from tests.controlplane.learning_world import ARMS, NOW, PUBLISHER, SIGNER, World, arm


def add_versions(world: World, count: int) -> None:
    """Versions 2, 3 … that nothing was said of."""
    with world.engine.begin() as connection:
        made = registry.explorer(world.policy, ARMS, world.settings(), NOW)
        for number in range(2, 2 + count):
            versions.add_version(connection, replace(made, number=number))


def told(*history: int) -> list[tuple[int, str]]:
    """A history of promotions; a negative number is a rollback to that version."""
    return [(abs(one), f"{ROLLBACK} 9" if one < 0 else "promoted") for one in history]


@pytest.mark.parametrize(
    ("history", "earlier"),
    [
        ((), None),
        ((1,), None),
        ((1, 1, 1), None),
        ((1, 2), 1),
        ((1, 2, 3), 2),
        ((1, 2, 3, -2), 1),
        ((1, 2, 3, -2, -1), None),
        ((1, 2, -1, 3), 1),
        ((1, 2, 2, 3, 3), 2),
        ((1, 2, 3, -2, 2), 1),
        ((1, 5, 9, 1), 9),
        ((1, 5, 9, 1, -9), 5),
    ],
)
def test_a_rollback_goes_to_whom_the_champion_displaced(
    history: tuple[int, ...], earlier: int | None
) -> None:
    assert predecessor(told(*history)) == earlier


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_rollbacks_in_a_row_walk_back_to_the_first_version(history: list[int]) -> None:
    walked = told(*history)
    for _ in history:
        earlier = predecessor(walked)
        if earlier is None:
            break
        walked += told(-earlier)
    assert predecessor(walked) is None
    assert walked[-1][0] == history[0]


def test_every_publication_has_the_next_serial(engine: sa.Engine) -> None:
    world = World(engine)
    add_versions(world, 2)
    serials = []
    with engine.begin() as connection:
        for number in (2, 3, 2, 2):
            bundle = publishing.publish(
                connection, PUBLISHER, world.policy.id, number, reason="", now=NOW
            )
            serials.append(bundle.serial)
        states = {
            row["number"]: row["state"]
            for row in versions.list_versions(connection, world.policy.id)
        }
    assert serials == [2, 3, 4, 5]
    assert states == {1: "retired", 2: "champion", 3: "retired"}
    assert world.champion() == (2, 4)  # moved three times since 1, and once put again


def test_a_published_bundle_expires_and_reproduces_its_golden_vectors(engine: sa.Engine) -> None:
    bundle = World(engine).bundle()
    assert bundle.expires_at - bundle.issued_at == PUBLISHER.ttl
    assert len(bundle.golden) == publishing.GOLDEN_VECTORS
    assert {len(golden.eligible) for golden in bundle.golden} == {3, 4}
    bundle.self_test()


def test_each_signing_key_signs(engine: sa.Engine) -> None:
    world = World(engine)
    second = Ed25519PrivateKey.from_private_bytes(bytes([5] * 32))
    both = Publisher((SIGNER, second), timedelta(days=1))
    with engine.begin() as connection:
        stored = publishing.republish(connection, both, world.policy.id, reason="", now=NOW)
    assert stored is not None
    trusted = [SIGNER.public_key(), second.public_key()]
    assert unseal(stored.body, trusted, threshold=2).serial == 2


def test_shadow_dispatch_reaches_the_edges_while_there_is_a_shadow(engine: sa.Engine) -> None:
    world = World(engine, config={"shadow_dispatch": {"share": 0.1, "usd_per_hour": 2.0}})
    add_versions(world, 1)
    assert world.bundle().lineup.empty
    with engine.begin() as connection:
        versions.put_alias(connection, world.policy.id, "shadow", 2, NOW)
        publishing.republish(connection, PUBLISHER, world.policy.id, reason="shadow", now=NOW)
    assert world.bundle().lineup.dispatch == Dispatch(0.1, 2.0, 4)
    with engine.begin() as connection:
        registry.put_policy(
            connection, PUBLISHER, world.project_id, name="chat", pool="main",
            config=replace(world.settings(), shadow_dispatch=ShadowDispatchConfig()), now=NOW,
        )  # fmt: skip
    assert world.bundle().lineup.shadows == (2,)
    assert world.bundle().lineup.dispatch is None


def test_a_version_that_does_not_exist_is_not_published(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection, pytest.raises(NotFoundError, match="version 9"):
        publishing.publish(connection, PUBLISHER, world.policy.id, 9, reason="", now=NOW)


def test_a_champion_moved_since_it_was_read_is_not_replaced(engine: sa.Engine) -> None:
    world = World(engine)
    add_versions(world, 1)
    with engine.begin() as connection, pytest.raises(StaleError, match="its revision is 1, not 7"):
        publishing.promote(
            connection, PUBLISHER, world.policy.id, 2, revision=7, reason="", now=NOW
        )
    assert world.champion() == (1, 1)


def test_only_a_judged_version_or_one_that_served_may_serve(engine: sa.Engine) -> None:
    world = World(engine)
    add_versions(world, 1)
    with engine.begin() as connection:
        publishing.admit(connection, world.policy.id, 1)
        with pytest.raises(GateError, match="no verdict") as raised:
            publishing.admit(connection, world.policy.id, 2)
        assert raised.value.checks == []
        with pytest.raises(InvalidError, match="version 9"):
            publishing.admit(connection, world.policy.id, 9)


def test_with_nothing_before_there_is_no_rollback(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection, pytest.raises(NotFoundError, match="nothing to roll back"):
        publishing.rollback(connection, PUBLISHER, world.policy.id, now=NOW)


def test_the_fallback_is_the_configured_arm_else_the_cheapest_of_the_best(
    engine: sa.Engine,
) -> None:
    world = World(engine)
    with engine.connect() as connection:
        version = versions.find_version(connection, world.policy.id, 1)
    assert version is not None
    priced = [
        replace(arm(name), card=Card(usd_per_mtok_in=price))
        for name, price in zip(ARMS, (3.0, 2.0, 1.0, 4.0), strict=True)
    ]
    found = {}
    for wanted in (None, "d", "gone"):
        found[wanted] = publishing.assemble(
            version, priced, PolicyConfig(fallback_arm=wanted),
            policy="chat", wait_s=0, serial=1, issued_at=NOW, expires_at=NOW + timedelta(days=1),
        ).fallback_arm  # fmt: skip
    assert found == {None: "c", "d": "d", "gone": "c"}


def test_the_same_publication_has_the_same_digest(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.connect() as connection:
        version = versions.find_version(connection, world.policy.id, 1)
    assert version is not None
    digests = {
        publishing.assemble(
            version, [arm(name) for name in ARMS], world.settings(),
            policy="chat", wait_s=0, serial=1, issued_at=NOW, expires_at=NOW + timedelta(days=1),
        ).digest
        for _ in range(2)
    }  # fmt: skip
    assert len(digests) == 1
