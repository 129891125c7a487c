"""A pipeline of what is installed: the models folder's files, on the best provider that proves."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

from kernels.models import CONFIG, WEIGHTS, Models, ModelsError, open_models
from kernels.providers import (
    DEFAULT_ORDER,
    PROVIDERS,
    Fallback,
    Placement,
    Proven,
    ProviderError,
    Session,
    choose,
)
from kernels.sessions import EncoderSession
from kernels.signals.encoder import CAP, Encoder
from kernels.signals.heads import HeadBank
from kernels.signals.pipeline import Budgets, Pipeline
from kernels.signals.static import StaticTable
from kernels.signals.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """The models by themselves, on the CPU, for training heads and for measuring."""

    tokens: Tokens
    table: StaticTable
    encoder: Encoder
    session: EncoderSession
    bare: Session


OnFallback = Callable[[Fallback], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """A pipeline, and the provider that its encoder runs on."""

    pipeline: Pipeline
    provider: str
    fallbacks: tuple[Fallback, ...]


def open_pipeline(
    root: Path,
    *,
    heads: HeadBank | None = None,
    budgets: Budgets | None = None,
    wanted: Collection[str] = ("embedding",),
    providers: Sequence[str] = DEFAULT_ORDER,
    require: str | None = None,
    placement: Placement | None = None,
    on_fallback: OnFallback | None = None,
) -> Opened:
    """Check the models folder, open all of it and warm it up.

    Args:
        root: the models folder.
        heads: what is read off the vectors.
        budgets: when a tier is left out.
        wanted: vectors that the signals shall hold.
        providers: short names, best first.
        require: the only provider that may serve.
        placement: threads and card.
        on_fallback: is told each provider that is passed over.

    Raises:
        ModelsError: Models are missing or damaged, or the extra ``models`` is not installed.
        ProviderError: No provider that may serve runs the encoder.
    """
    models = open_models(root)
    proven = prove(
        models,
        providers=providers,
        require=require,
        placement=placement or Placement(),
        on_fallback=on_fallback,
    )
    session = EncoderSession(proven, most_tokens=CAP, buckets=(16, 32, CAP))
    session.warm_up()
    pipeline = Pipeline(
        tokens=Tokens(models.tokenizer),
        table=StaticTable.open(models.table),
        encoder=Encoder(session),
        heads=heads,
        budgets=budgets,
        wanted=wanted,
    )
    # What is opened at its first use, such as the language model, is open before the first request.
    pipeline.read([{"role": "user", "content": "Is all of it open now?"}])
    return Opened(pipeline, proven.provider, proven.fallbacks)


def open_parts(root: Path) -> Parts:
    """Check the models folder and open each part of it.

    Raises:
        ModelsError: Models are missing or damaged.
    """
    models = open_models(root)
    proven = choose(models.encoder, require="cpu")
    session = EncoderSession(proven, most_tokens=CAP)
    return Parts(
        tokens=Tokens(models.tokenizer),
        table=StaticTable.open(models.table),
        encoder=Encoder(session),
        session=session,
        bare=proven.session,
    )


def prove(
    models: Models,
    *,
    providers: Sequence[str] = DEFAULT_ORDER,
    require: str | None = None,
    placement: Placement,
    on_fallback: OnFallback | None = None,
) -> Proven:
    """The encoder on the first provider that runs it.

    A card gets the graph in floating point with a mask, built of the weights in about a second;
    the CPU gets the 8-bit one without.

    Raises:
        ProviderError: None of them does.
    """
    wanted = (require,) if require is not None else tuple(providers)
    cards = [name for name in wanted if name != "cpu"]
    passed: tuple[Fallback, ...] = ()
    if cards:
        try:
            return choose(
                _build_plain(models) if _any_there(cards) else b"",
                wanted=cards,
                placement=placement,
                probe={name: np.ones((1, CAP), np.int64) for name in _PLAIN_INPUTS},
                on_fallback=on_fallback,
            )
        except ProviderError as error:
            passed = error.fallbacks
            if "cpu" not in wanted:
                raise
    found = choose(
        models.encoder,
        require="cpu",
        placement=placement,
        probe={"input_ids": np.ones((1, 8), np.int64)},
    )
    return Proven(found.session, found.provider, passed)


_PLAIN_INPUTS = ("input_ids", "attention_mask")


def _any_there(cards: Sequence[str]) -> bool:
    """Whether this ONNX Runtime has any of them: otherwise no graph need be built to say so."""
    there = onnxruntime.get_available_providers()
    return any(PROVIDERS.get(name) in there for name in cards)


def _build_plain(models: Models) -> bytes:
    try:
        from kernels.graphs import builder, config  # noqa: PLC0415 — an extra, for cards alone
    except ImportError as error:
        raise ModelsError(f"a card's graph is built with onnx: {error}") from error
    sizes = config.read_config(json.loads((models.folder / CONFIG).read_text(encoding="utf-8")))
    return builder.build(load_file(models.folder / WEIGHTS), sizes, "plain")
