"""Heads that serve before anybody has labelled anything, and what it takes to replace them."""

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from bench.feedback_turns import TURNS
from controlplane import heads, registry
from controlplane.errors import NotFoundError
from controlplane.head_start import model
from controlplane.heads_config import HeadConfig
from edge.metrics import Metrics
from edge.reading import Reader
from kernels.graphs.quantize import build_int8
from kernels.providers import choose
from kernels.sessions import EncoderSession
from kernels.signals import prototypes
from kernels.signals.encoder import CAP, Encoder
from kernels.signals.pipeline import Budgets, Pipeline
from kernels.signals.tokens import Tokens
from learners.bundle import Bundle
from storage import heads as stored
from tests.controlplane.heads_world import DOMAIN_HEAD, FEEDBACK_HEAD, KINDS, Floats, HeadsWorld
from tests.controlplane.learning_world import NOW, PUBLISHER
from tests.controlplane.test_heads import refused
from tests.kernels.encoders import minilm

HEAD = HeadConfig(
    "feedback", metric="kind", classes=KINDS, feature="embedding", size=384, start="prototypes"
)
LATER = NOW + timedelta(minutes=1)


def turns(labels: Any, *, seed: int) -> Floats:
    """Vectors as of turns that say these kinds, of which prototypes see a part."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(4, 384)) / 20
    means = prototypes.shipped().astype(np.float64) / prototypes.SHARPNESS / 4
    x = (means + centres)[labels] + random.normal(size=(len(labels), 384)) / 12
    found: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def teach(at: HeadsWorld, count: int, *, seed: int, wrong: bool = False) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=count)
    ids = at.grow(labels % 2, seed=seed, embeddings=turns(labels, seed=seed))
    told = random.permutation(labels) if wrong else labels
    at.say(ids, "kind", [KINDS[label] for label in told])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """An edge's reader with MiniLM, as the models folder has it."""
    weights = minilm()
    path = tmp_path_factory.mktemp("models") / "encoder.onnx"
    path.write_bytes(build_int8(weights.weights, weights.config, "flash", reduce_range=True))
    session = EncoderSession(choose(path, require="cpu"), most_tokens=CAP)
    tokens = Tokens(weights.folder / "tokenizer.json")
    ample = Budgets(static_s=59, encoder_s=59, reask_s=59)
    return Reader(Metrics(), Pipeline(tokens=tokens, encoder=Encoder(session), budgets=ample))


def context_of(reader: Reader, bundle: Bundle, *said: str) -> dict[str, Any]:
    """What an edge reads off a chat in which the user said these turns."""
    messages: list[object] = []
    for turn in said:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Paris."}]
    return dict(asyncio.run(reader.read(bundle, messages[:-1], {})))


def test_the_first_bundle_brings_prototypes_and_an_edge_reads_the_last_turn_by_them(
    engine: sa.Engine, reader: Reader
) -> None:
    at = HeadsWorld(engine, FEEDBACK_HEAD, features=[])
    bundle = at.world.bundle()
    head = bundle.heads.by_name["feedback"]
    assert (head.version, head.feature) == (1, "embedding")
    assert bundle.heads.logged == (("embedding", 384),)
    bundle.self_test()
    right = []
    for kind, said in TURNS.items():
        for turn in said:
            context = context_of(reader, bundle, "What is the capital of France?", turn)
            chances = [context[f"feedback.{one}"] for one in KINDS]
            assert sum(chances) == pytest.approx(1.0, abs=1e-3)
            assert context["feedback"] == KINDS[int(np.argmax(chances))]
            right.append(context["feedback"] == kind)
    print(f"feedback kind by the bundle's prototypes: {np.mean(right):.3f} of {len(right)} turns")
    assert np.mean(right) >= 0.7
    alike = context_of(reader, bundle, "Perfect, it works now.", "That is wrong.")
    assert alike["feedback"] == "wrong_answer"  # whatever was said before


def test_what_is_learnt_replaces_prototypes_only_where_it_is_better(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, FEEDBACK_HEAD, features=[])
    assert at.step() == []
    # What trains was labelled by a dice, what judges by somebody who knows.
    teach(at, 160, seed=20, wrong=True)
    teach(at, 60, seed=21)
    (worse,) = at.step()
    assert (worse.number, worse.passed, worse.numbers["serving"]) == (2, False, 1)
    assert at.states("feedback") == [(1, "serving"), (2, "refused")]
    assert at.world.bundle().heads.by_name["feedback"].version == 1
    teach(at, 900, seed=22)
    (better,) = at.step(LATER)
    assert better.passed, better.summary
    assert better.numbers["other"]["log_loss"] > better.numbers["own"]["log_loss"]
    assert at.world.bundle().heads.by_name["feedback"].version == 3
    with engine.begin() as connection:
        heads.rollback(connection, PUBLISHER, at.policy_id, "feedback", now=LATER)
    assert at.world.bundle().heads.by_name["feedback"].version == 1


def test_a_head_starts_once_and_by_what_it_says_of_itself(engine: sa.Engine) -> None:
    at = HeadsWorld(engine)
    serial = at.serial()
    for _ in range(2):
        at.declare(FEEDBACK_HEAD, DOMAIN_HEAD)
    assert at.serial() == serial + 1
    assert at.states("feedback") == [(1, "serving")]
    first = at.serving("feedback")
    assert first is not None
    assert prototypes.ENCODER in first.summary
    assert first.numbers["made_of"] == prototypes.made_of()
    with engine.begin() as connection:
        heads.rollback(connection, PUBLISHER, at.policy_id, "feedback", now=LATER)
    assert at.world.bundle().heads.served == ()
    with engine.begin() as connection, pytest.raises(NotFoundError):
        heads.rollback(connection, PUBLISHER, at.policy_id, "feedback", now=LATER)
    # To declare it again is no reason to bring back what somebody took out.
    at.declare(FEEDBACK_HEAD)
    assert at.states("feedback") == [(1, "reverted")]


def test_prototypes_come_to_a_head_whose_version_was_refused_but_only_once(
    engine: sa.Engine,
) -> None:
    learning = {name: value for name, value in FEEDBACK_HEAD.items() if name != "start"}
    at = HeadsWorld(engine, learning, features=[])
    teach(at, 160, seed=20, wrong=True)
    (worse,) = at.step()
    assert (worse.number, worse.passed) == (1, False)
    at.declare(FEEDBACK_HEAD)
    assert at.states("feedback") == [(1, "refused"), (2, "serving")]
    with engine.begin() as connection:
        heads.rollback(connection, PUBLISHER, at.policy_id, "feedback", now=LATER)
    teach(at, 160, seed=21, wrong=True)
    at.step(LATER)
    at.declare(FEEDBACK_HEAD)
    assert at.states("feedback") == [(1, "refused"), (2, "reverted"), (3, "refused")]


def test_prototypes_wait_for_a_person_where_versions_do(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, {**FEEDBACK_HEAD, "auto_publish": False})
    assert at.states("feedback") == [(1, "candidate")]
    assert at.world.bundle().heads.served == ()
    with engine.begin() as connection:
        heads.publish(connection, PUBLISHER, at.policy_id, "feedback", 1, now=NOW)
    assert at.world.bundle().heads.by_name["feedback"].version == 1


def test_a_policy_that_begins_with_prototypes_has_them_in_its_first_bundle(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine)
    config = {**at.world.config, "heads": [FEEDBACK_HEAD]}
    at.world.config = config
    with engine.begin() as connection:
        registry.put_policy(
            connection, PUBLISHER, at.world.project_id,
            name="other", pool="main", config=at.world.settings(), now=NOW,
        )  # fmt: skip
        made = registry.find_policy(connection, at.world.project_id, "other")
        serving = stored.serving_head(connection, made.id, "feedback")
        reasons = connection.scalars(
            sa.text("SELECT reason FROM bundles WHERE policy_id = :id"), {"id": made.id}
        ).all()
    assert serving is not None
    assert reasons == ["created: explores evenly"]


def test_the_classes_stand_in_the_order_that_is_declared() -> None:
    backwards = HeadConfig(
        "feedback", metric="kind", classes=KINDS[::-1], feature="embedding", size=384,
        start="prototypes",
    )  # fmt: skip
    x = turns(np.arange(4), seed=3)
    np.testing.assert_allclose(
        model(HEAD).probabilities(x), model(backwards).probabilities(x)[:, ::-1]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"classes": list(KINDS[:3])},
        {"feature": "static"},
        {"size": 256},
    ],
)
def test_prototypes_of_anything_else_are_refused_with_the_remedy(
    engine: sa.Engine, change: dict[str, Any]
) -> None:
    at = HeadsWorld(engine)
    said = refused(at, {**FEEDBACK_HEAD, **change})
    assert said.startswith("heads.start: head 'feedback': start is")
    assert "leave" in said
