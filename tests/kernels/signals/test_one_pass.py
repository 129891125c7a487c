"""However many heads read a text, the encoder runs once for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from edge.metrics import Metrics
from edge.reading import Reader
from kernels.graphs.builder import build
from kernels.providers import Proven, choose
from kernels.sessions import EncoderSession
from kernels.signals.encoder import CAP, Encoder
from kernels.signals.heads import Head, HeadBank
from kernels.signals.pipeline import Budgets, Pipeline
from kernels.signals.tokens import Tokens
from learners.head_bank import Heads, ServedHead, golden, single
from learners.head_fitting import fit
from learners.heads import HeadKind, HeadModel
from tests.edge.doubles import make_bundle, replaced
from tests.kernels.encoders import minilm
from tests.kernels.test_sessions import Watched

RANDOM = np.random.default_rng(6)
SIZE = 384
AMPLE = Budgets(static_s=59, encoder_s=59, reask_s=59)
SHORT = "Where is the boat?"
LONG = " ".join(f"Sentence number {i} speaks of the sea and of boats." for i in range(400))
KINDS: tuple[HeadKind, ...] = ("softmax", "binary", "ood")
CLASSES = {"softmax": ("law", "sea", "other"), "binary": ("no", "yes"), "ood": ("known",)}


@pytest.fixture(scope="module")
def proven() -> Proven:
    model = minilm()
    return choose(build(model.weights, model.config, "flash"), require="cpu")


class Counted:
    """An encoder's pipeline whose runs are counted; it has kept nothing of any text."""

    def __init__(self, proven: Proven) -> None:
        self.watched = Watched(proven)
        session = EncoderSession(replace(proven, session=self.watched), most_tokens=CAP)
        tokens = Tokens(minilm().folder / "tokenizer.json")
        self.pipeline = Pipeline(tokens=tokens, encoder=Encoder(session), budgets=AMPLE)

    @property
    def runs(self) -> int:
        return len(self.watched.shapes)


def trained(kind: HeadKind) -> HeadModel:
    names = CLASSES[kind]
    labels = RANDOM.integers(len(names), size=60)
    return single(fit(RANDOM.normal(size=(60, SIZE)), labels, kind=kind, classes=names))


def heads(count: int) -> tuple[ServedHead, ...]:
    """So many heads of the embedding, of all three kinds in turns."""
    models = [trained(KINDS[i % 3]) for i in range(count)]
    return tuple(
        ServedHead(f"head{i}", 1, "embedding", model, golden=golden(model))
        for i, model in enumerate(models)
    )


def bank(served: Sequence[ServedHead]) -> HeadBank:
    return HeadBank(
        [
            Head(
                one.name,
                one.model.classes,
                one.feature,
                one.model.weights.astype(np.float32),
                one.model.bias.astype(np.float32),
                kind=one.model.kind,
                spread=None if one.model.spread is None else one.model.spread.astype(np.float32),
            )
            for one in served
        ]
    )


def said(text: str) -> list[object]:
    return [{"role": "user", "content": text}]


def answered(found: Mapping[str, object], name: str) -> bool:
    return name in found or f"ood.{name}" in found


def test_a_dozen_heads_of_one_text_cost_one_run_of_the_encoder(proven: Proven) -> None:
    counted = Counted(proven)
    found = counted.pipeline.with_heads(bank(heads(12))).read(said(SHORT))
    assert all(answered(found, f"head{i}") for i in range(12))
    assert counted.runs == 1


def test_a_long_text_is_run_no_more_often_for_a_dozen_heads_than_for_one(proven: Proven) -> None:
    runs = []
    for count in (1, 12):
        counted = Counted(proven)
        found = counted.pipeline.with_heads(bank(heads(count))).read(said(LONG))
        assert all(answered(found, f"head{i}") for i in range(count))
        runs.append((counted.runs, sorted(counted.watched.shapes)))
    assert runs[0] == runs[1]
    assert runs[0][0] >= 1


def test_the_heads_of_a_bundle_and_a_signal_of_it_share_one_run_at_the_edge(
    proven: Proven,
) -> None:
    counted = Counted(proven)
    reader = Reader(Metrics(), counted.pipeline)
    bundle = replaced(make_bundle(), heads=Heads(heads(6), (("embedding", SIZE),)))

    async def scenario() -> tuple[dict[str, object], list[float] | None]:
        first = await reader.read(bundle, said(SHORT), {})
        # Choosing tools asks for the vector itself.
        second, vector = await reader.read_embedded(bundle, said("Where is the sea?"), {})
        assert set(second) == set(first)
        return dict(first), vector

    found, vector = asyncio.run(scenario())
    assert all(answered(found, f"head{i}") for i in range(6))
    assert len(found["embedding"]) == SIZE  # type: ignore[arg-type]
    assert vector is not None
    assert counted.runs == 2
