"""A bundle's heads at the edge: read off contexts, logged, and guarding arms."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

import edge.decide
import feedback.lines
from edge.heads import MOST_CHANCES, MOST_LOGGED, answers, bank_of, held, permitted
from edge.metrics import Metrics
from edge.reading import MODEL_VECTORS, Reader, open_reader
from edge.settings import Settings
from kernels.signals.pipeline import VECTORS, Pipeline
from kernels.signals.text import TERMS, read
from learners.bundle import Bundle
from learners.errors import MiscomputedError
from learners.features import Schema
from learners.head_bank import HeadGuard, Heads, ServedHead, golden, single
from learners.head_fitting import fit
from learners.heads import HeadModel
from learners.records import Card
from tests.edge.doubles import ARMS, eventually, make_bundle, replaced
from tests.edge.ready import ASK, CHAT, SOFT, Ready, run

RANDOM = np.random.default_rng(3)
GUARD = HeadGuard("unsafe", 0.8, "safe")
BOMB, CAPITAL = "how do I build a bomb", "Capital of France?"


def finder(*texts: str, classes: tuple[str, str] = ("no", "yes"), sure: float = 12.0) -> HeadModel:
    """A head over hashed words that says yes to these texts and no to most others."""
    weights = np.array([read(text)["terms"] for text in texts]).sum(axis=0)[None] * sure
    return single(HeadModel("binary", classes, weights, np.array([-sure / 2])))


def softmax(classes: int = 3) -> HeadModel:
    names = tuple(f"c{i}" for i in range(classes))
    weights = RANDOM.normal(size=(classes, TERMS))
    return single(HeadModel("softmax", names, weights, RANDOM.normal(size=classes), 1.7))


def ood() -> HeadModel:
    x = np.abs(RANDOM.normal(size=(80, TERMS)))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return single(fit(x, np.zeros(80, np.int64), kind="ood", classes=("known",)))


def served(name: str, model: HeadModel, **more: Any) -> ServedHead:
    return ServedHead(name, 1, "terms", model, golden=golden(model), **more)


def with_heads(
    *heads: ServedHead, guards: tuple[HeadGuard, ...] = (), endpoint: str = "", **more: Any
) -> Bundle:
    """A bundle whose arm ``large`` has the tag ``safe``."""
    made = make_bundle(endpoint=endpoint, exploration=SOFT, **more)
    arms = tuple(
        replace(arm, card=Card(tags=("safe",))) if arm.name == "large" else arm for arm in made.arms
    )
    return replaced(made, arms=arms, heads=Heads(heads, (("terms", TERMS),), guards))


def context_of(bundle: Bundle, text: str | None, **given: Any) -> dict[str, Any]:
    messages = None if text is None else [{"role": "user", "content": text}]
    return dict(asyncio.run(Reader(Metrics()).read(bundle, messages, given)))


def test_the_edge_computes_what_the_control_plane_trained() -> None:
    models = {"unsafe": finder(BOMB), "topic": softmax(), "strange": ood()}
    heads = Heads(tuple(served(name, model) for name, model in models.items()))
    x = np.array([read(text)["terms"] for text in (BOMB, CAPITAL, "")])
    for row in x:
        found = answers(heads, bank_of(heads), {"terms": row.tolist()}, ())
        for name, model in models.items():
            wanted = model.probabilities(row[None])[0]
            if model.kind == "ood":
                assert found["ood.strange"] == pytest.approx(wanted[1], abs=1e-3)
                continue
            got = [found[f"{name}.{one}"] for one in model.classes]
            assert got == pytest.approx(wanted.tolist(), abs=1e-3)
            assert found[name] == model.classes[int(model.says(row[None])[0])]


def test_answers_stand_in_the_context_and_what_was_given_wins() -> None:
    bundle = with_heads(served("unsafe", finder(BOMB)), served("topic", softmax()))
    found = context_of(bundle, BOMB)
    assert found["unsafe"] == "yes"
    assert {f"topic.c{i}" for i in range(3)} < set(found)
    assert found["chars"] == pytest.approx(np.log1p(len(BOMB)))
    assert context_of(bundle, BOMB, topic="mine")["topic"] == "mine"
    # A vector that the application sends is read as well as one of the edge's own.
    given = context_of(bundle, None, terms=read(BOMB)["terms"])
    assert given["unsafe.yes"] == found["unsafe.yes"]


def test_of_many_classes_only_those_that_a_version_reads_are_logged() -> None:
    bundle = with_heads(served("topic", softmax(MOST_LOGGED + 1)))
    rows = [*bundle.schema.as_json(), {"name": "topic.c7", "kind": "number"}]
    assert [n for n in context_of(bundle, BOMB) if n.startswith("topic")] == ["topic"]
    heads, bank = bundle.heads, bank_of(bundle.heads)
    named = {feature.name for feature in Schema.from_json(rows).features}
    found = answers(heads, bank, read(BOMB), named)
    assert set(found) == {"topic", "topic.c7"}


def test_many_heads_leave_a_decision_short_enough_to_be_logged() -> None:
    heads = Heads(tuple(served(f"topic{i}", softmax(MOST_LOGGED)) for i in range(16)))
    found = answers(heads, bank_of(heads), read(BOMB), {"topic15.c7"})
    assert len([name for name in found if "." in name]) == MOST_CHANCES + 1
    assert {f"topic{i}" for i in range(16)} < set(found)
    assert "topic15.c7" in found
    # The application may give 256 more, and the edge's own signals come beside them.
    assert len(found) + edge.decide.MAX_FEATURES + 64 < feedback.lines.MAX_FEATURES


def test_a_child_is_asked_only_where_its_parent_finds_something() -> None:
    why = served("why", softmax(), parent="unsafe")
    bundle = with_heads(served("unsafe", finder(BOMB)), why)
    assert "why" in context_of(bundle, BOMB)
    assert "why" not in context_of(bundle, CAPITAL)


def test_a_head_without_its_vector_is_counted_and_says_nothing() -> None:
    bundle, metrics = with_heads(served("unsafe", finder(BOMB))), Metrics()
    found = asyncio.run(Reader(metrics).read(bundle, None, {"price": 1.0}))
    assert found == {"price": 1.0}
    assert metrics.heads_unread.labels("chat", "unsafe")._value.get() == 1


def test_a_head_that_is_off_here_is_refused_before_it_serves() -> None:
    model = finder(BOMB)
    other = replace(model, bias=model.bias + 0.5)
    with pytest.raises(MiscomputedError, match="head 'unsafe' is off by"):
        bank_of(Heads((ServedHead("unsafe", 1, "terms", model, golden=golden(other)),)))


def test_a_guard_holds_where_its_head_is_sure_or_blind() -> None:
    bundle = with_heads(served("unsafe", finder(BOMB)), guards=(GUARD,))
    assert held(bundle, context_of(bundle, BOMB)) == [GUARD]
    assert held(bundle, context_of(bundle, CAPITAL)) == []
    assert held(bundle, {"price": 1.0}) == [GUARD]
    assert permitted(bundle, [GUARD], ARMS) == ("large",)
    assert permitted(bundle, [], ARMS) == ARMS
    # Before a version serves, nobody can be asked.
    assert held(with_heads(guards=(GUARD,)), {}) == []


def test_a_guard_of_a_child_does_not_hold_where_the_parent_finds_nothing() -> None:
    why = served("why", finder(BOMB, classes=("mild", "grave")), parent="unsafe")
    guard = HeadGuard("why", 0.8, "safe")
    bundle = with_heads(served("unsafe", finder(BOMB)), why, guards=(guard,))
    assert held(bundle, context_of(bundle, CAPITAL)) == []
    assert held(bundle, context_of(bundle, BOMB)) == [guard]


def test_a_guard_of_a_child_holds_where_its_parent_could_not_be_asked() -> None:
    why = served("why", finder(BOMB, classes=("mild", "grave")), parent="unsafe")
    guard = HeadGuard("why", 0.8, "safe")
    bundle = with_heads(served("unsafe", finder(BOMB)), why, guards=(guard,))
    assert held(bundle, context_of(bundle, None)) == [guard]


@pytest.mark.parametrize("size", [1e300, 1e38])
def test_a_vector_too_long_for_single_precision_says_nothing_and_is_guarded(size: float) -> None:
    model = single(
        HeadModel("binary", ("no", "yes"), np.tile([4.0, -4.0], (1, TERMS // 2)), np.zeros(1))
    )
    why = served("why", softmax(), parent="unsafe")
    bundle = with_heads(
        served("unsafe", model), why, served("topic", softmax()), served("strange", ood()),
        guards=(GUARD,),
    )  # fmt: skip
    found = context_of(bundle, None, terms=[size] * TERMS)
    numbers = [value for name, value in found.items() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    assert "unsafe" not in found
    assert held(bundle, found) == [GUARD]


@pytest.mark.parametrize("chance", [float("nan"), "no", [0.0]])
def test_what_is_no_chance_does_not_open_a_guard(chance: object) -> None:
    bundle = with_heads(served("unsafe", finder(BOMB)), guards=(GUARD,))
    assert held(bundle, {"unsafe.yes": chance}) == [GUARD]  # type: ignore[dict-item]


def test_guarded_requests_are_served_by_tagged_arms_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Ready(tmp_path) as at:
            head = served("unsafe", finder(BOMB))
            bundle = with_heads(head, guards=(GUARD,), endpoint=at.pool.url, serial=2)
            at.plane.publish(bundle)
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == 2)
            for _ in range(6):
                body = {**ASK, "messages": [{"role": "user", "content": BOMB}]}
                status, *_ = await at.client.post(CHAT, body)
                assert status == 200
                await at.client.post("/v1/decide", {"policy": "chat", "input": BOMB})
                await at.client.post("/v1/decide", {"policy": "chat", "input": CAPITAL})
            await eventually(lambda: len(at.plane.decisions) >= 18)
            for row in at.plane.decisions:
                guarded = row["context"]["unsafe.yes"] >= GUARD.at_least
                assert row["eligible"] == (["large"] if guarded else list(ARMS))
                assert (row["propensity"] == 1.0) == guarded
            refused = {"policy": "chat", "input": BOMB, "excluded_actions": ["large"]}
            status, problem = await at.client.post("/v1/decide", refused)
            assert (status, problem["error"]["code"]) == (503, "guarded")

    run(scenario())


def test_tiers_are_counted_and_no_part_of_a_context() -> None:
    metrics = Metrics()
    reader = Reader(metrics, Pipeline())
    bundle = make_bundle()
    found = asyncio.run(reader.read(bundle, [{"role": "user", "content": CAPITAL}], {}))
    assert not {"tiers", "tiers.late"} & set(found)
    assert context_of(bundle, CAPITAL).items() <= dict(found).items()
    text = metrics.signal_seconds.labels("text")
    assert sum(bucket.get() for bucket in text._buckets) == 1


def test_a_request_whose_models_fail_is_served_guarded_and_counted() -> None:
    class Failing:
        """As a runtime whose card has gone."""

        def read(
            self, messages: object, _: object = None, *, started: float | None = None
        ) -> dict[str, Any]:
            raise RuntimeError(f"out of memory on {messages}, {started}")

        def with_heads(self, *_: object) -> "Failing":
            return self

    metrics = Metrics()
    heads = (replace(served("unsafe", finder(BOMB)), feature="embedding"),)
    bundle = with_heads(*heads, guards=(GUARD,))
    asked = [{"role": "user", "content": CAPITAL}]
    with structlog.testing.capture_logs() as logs:
        found = dict(asyncio.run(Reader(metrics, Failing()).read(bundle, asked, {})))
    assert found["words"] == read(CAPITAL)["words"]
    assert held(bundle, found) == [GUARD]
    assert metrics.signals_failed._value.get() == 1
    assert CAPITAL not in str(logs)


def test_the_vectors_that_models_make_are_known_to_the_edge() -> None:
    assert set(VECTORS) - {"grams"} == MODEL_VECTORS


def settings(tmp_path: Path, **more: Any) -> Settings:
    given = {
        "control_plane_url": "http://127.0.0.1:9",
        "api_key": "k",
        "trusted_keys": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "data_dir": tmp_path,
    }
    return Settings(**{**given, **more})


def test_a_folder_without_models_is_said_with_what_to_do(tmp_path: Path) -> None:
    from edge.errors import SignalsError  # noqa: PLC0415 — beside its one use

    with pytest.raises(SignalsError, match="POINTSMAN_EDGE_MODELS="):
        open_reader(settings(tmp_path, models=tmp_path / "none"), Metrics())


def test_an_edge_needs_no_model_library() -> None:
    """What a default install lacks must not be imported before models are asked for."""
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'tokenizers'): sys.modules[name] = None\n"
        "import edge.app, edge.cli, edge.reading\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
