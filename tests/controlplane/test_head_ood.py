"""An ood head from what people said of requests to what an edge does with one like none before."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from edge.heads import held, permitted
from edge.metrics import Metrics
from edge.reading import Reader
from learners.bundle import Bundle
from learners.head_bank import HeadGuard
from tests.controlplane.heads_world import DOMAINS, SIZE, Floats, HeadsWorld
from tests.edge.doubles import eventually, replaced
from tests.edge.ready import Ready, run

STRANGE: dict[str, Any] = {
    "name": "strange",
    "kind": "ood",
    "metric": "topic",
    "classes": list(DOMAINS),
    "feature": "embedding",
    "size": SIZE,
}
TOPICS = (*DOMAINS, "law")
"""What people say; the head is told the first two as known."""
NEVER = 3
"""The place of a topic that nobody has ever spoken of."""
CENTRES = 4.0 * np.random.default_rng(12).normal(size=(4, SIZE))
GUARD = HeadGuard("strange", 0.5, "safe")


def around(labels: Any, *, seed: int) -> Floats:
    """A vector for each label, around its topic's centre."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), SIZE))
    found: Floats = CENTRES[np.asarray(labels)] + noise
    return found


def teach(at: HeadsWorld, count: int, *, seed: int, wrong: bool = False) -> None:
    """Requests of three topics with what somebody says of them; ``wrong``: as a dice says it."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, size=count, p=[0.4, 0.4, 0.2])
    ids = at.grow(labels % 2, seed=seed, embeddings=around(labels, seed=seed))
    told = random.permutation(labels) if wrong else labels
    at.say(ids, "topic", [TOPICS[label] for label in told])


def context_of(bundle: Bundle, vector: Floats) -> dict[str, Any]:
    """What an edge makes of a request that brings this vector."""
    given = {"embedding": vector.tolist()}
    return dict(asyncio.run(Reader(Metrics()).read(bundle, None, given)))


def strangeness(bundle: Bundle, label: int) -> Floats:
    """What an edge reads off 50 requests of one topic that nobody has labelled."""
    vectors = around([label] * 50, seed=90 + label)
    found: Floats = np.array([context_of(bundle, one)["ood.strange"] for one in vectors])
    return found


def test_what_people_call_known_becomes_a_head_that_an_edge_reads(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, STRANGE)
    serial = at.serial()
    assert at.step() == []  # nobody has said anything yet
    teach(at, 300, seed=20)
    (made,) = at.step()
    assert (made.number, made.passed) == (1, True), made.summary
    assert made.numbers["over"]["low"] > 0

    bundle = at.world.bundle()
    assert bundle.serial == serial + 1
    assert bundle.heads.logged == (("embedding", SIZE),)
    bundle.self_test()
    model = bundle.heads.by_name["strange"].model
    assert (model.kind, model.classes) == ("ood", ("in", "out"))
    for label in range(2):
        assert (strangeness(bundle, label) < 0.5).mean() >= 0.9
    # A topic that people named, none of the known ones; and one that nobody ever spoke of.
    for label in (2, NEVER):
        assert (strangeness(bundle, label) > 0.5).mean() >= 0.9
    vectors = around([2] * 50, seed=92)
    wanted = model.probabilities(vectors)[:, 1]
    assert strangeness(bundle, 2) == pytest.approx(wanted, abs=1e-3)


def test_an_ood_head_taught_by_a_dice_is_refused_and_the_better_one_serves(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, STRANGE)
    teach(at, 300, seed=20)
    at.step()
    serial = at.serial()
    teach(at, 500, seed=21, wrong=True)
    teach(at, 350, seed=22)
    (made,) = at.step()
    assert not made.passed
    assert made.numbers["over"]["high"] < 0
    assert "not served" in made.summary
    assert at.states("strange") == [(1, "serving"), (2, "refused")]
    assert at.serial() == serial


def test_an_ood_head_waits_for_labels_of_what_is_unknown(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, STRANGE)
    labels = np.random.default_rng(30).integers(2, size=200)
    ids = at.grow(labels, seed=30, embeddings=around(labels, seed=30))
    at.say(ids, "topic", [TOPICS[label] for label in labels])
    (made,) = at.step()
    assert not made.passed
    assert "class 'out' has 0 labels that judged, fewer than the" in made.summary
    assert at.world.bundle().heads.served == ()


def test_a_guard_by_an_ood_head_keeps_strange_requests_to_tagged_arms(engine: sa.Engine) -> None:
    guard = {"head": GUARD.head, "at_least": GUARD.at_least, "tag": GUARD.tag}
    at = HeadsWorld(engine, STRANGE, guards=[guard])
    teach(at, 300, seed=20)
    at.step()
    bundle = at.world.bundle()
    assert bundle.heads.guards == (GUARD,)
    for label in (0, NEVER):
        for vector in around([label] * 20, seed=50 + label):
            context = context_of(bundle, vector)
            guards = held(bundle, context)
            assert bool(guards) == (context["ood.strange"] >= GUARD.at_least)
            if guards:
                assert permitted(bundle, guards, tuple("abcd")) == ("c",)
    assert held(bundle, {}) == [GUARD]  # of what it cannot see it knows nothing


def test_an_edge_that_pulls_the_bundle_logs_what_its_ood_head_says(
    engine: sa.Engine, tmp_path: Path
) -> None:
    guard = {"head": GUARD.head, "at_least": GUARD.at_least, "tag": GUARD.tag}
    at = HeadsWorld(engine, STRANGE, guards=[guard])
    teach(at, 300, seed=20)
    at.step()
    learnt = at.world.bundle()

    async def scenario() -> None:
        async with Ready(tmp_path) as ready:
            serial = max(learnt.serial, ready.bundle.serial + 1)
            # The world's clock stands still; the edge's does not.
            expires_at = ready.bundle.expires_at
            ready.plane.publish(replaced(learnt, serial=serial, expires_at=expires_at))
            await eventually(lambda: ready.plane.statuses[-1]["active"].get("chat") == serial)
            for label in (0, 1, 2, NEVER):
                for vector in around([label] * 5, seed=70 + label):
                    context = {"embedding": vector.tolist(), "asked": float(label)}
                    await ready.client.post("/v1/decide", {"policy": "chat", "context": context})
            await eventually(lambda: len(ready.plane.decisions) >= 20)
            for row in ready.plane.decisions:
                strange = row["context"]["ood.strange"] >= GUARD.at_least
                assert row["eligible"] == (["c"] if strange else list("abcd"))
                assert strange == (row["context"]["asked"] >= 2)

    run(scenario())
