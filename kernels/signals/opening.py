"""A pipeline of what is installed: the models folder's files, on the best provider that proves."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

from kernels.models import Models, ModelsError, open_models, open_weights
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
from kernels.sessions import COMPILED, EncoderSession
from kernels.signals.encoder import CAP, Encoder
from kernels.signals.heads import HeadBank
from kernels.signals.pipeline import Budgets, Pipeline
from kernels.signals.static import StaticTable
from kernels.signals.tokens import Tokens

LENGTHS = (16, 32, CAP)
"""Tokens to which a provider that compiles each shape pads a text: what it has compiled."""
KEPT_IN = "compiled"
"""Folder in a models folder where compiled shapes are kept, unless another is chosen."""


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
    """A pipeline, and the provider that its encoder runs on.

    ``notes`` say what should be mended and does not keep it from serving, each with its remedy.
    """

    pipeline: Pipeline
    provider: str
    fallbacks: tuple[Fallback, ...]
    notes: tuple[str, ...] = ()


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
        placement: threads, card and a folder for what the card's provider compiles, in which
            each model has a folder of its own.
        on_fallback: is told each provider that is passed over.

    Raises:
        ModelsError: Models are missing or damaged, or the extra ``models`` is not installed.
        ProviderError: No provider that may serve runs the encoder.
    """
    models = open_models(root)
    placed, unkept = _writable(placement or Placement(), providers, require)
    proven = prove(
        models,
        providers=providers,
        require=require,
        placement=placed,
        on_fallback=on_fallback,
    )
    session = open_session(proven)
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
    notes = tuple(filter(None, (models.outdated, unkept)))
    return Opened(pipeline, proven.provider, proven.fallbacks, notes)


def open_session(proven: Proven) -> EncoderSession:
    """The encoder as requests use it: a text at a time, so that few shapes need be compiled."""
    return EncoderSession(proven, most_tokens=CAP, batch=1, buckets=LENGTHS)


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
    the CPU gets the 8-bit one without. What is compiled of it is kept in a folder of
    ``placement.cache_dir`` that is named after all that it depends on.

    Raises:
        ProviderError: None of them does.
    """
    wanted = (require,) if require is not None else tuple(providers)
    cards = [name for name in wanted if name != "cpu"]
    passed: tuple[Fallback, ...] = ()
    if cards:
        graph = _build_plain(models) if _any_there(cards) else b""
        try:
            return choose(
                graph,
                wanted=cards,
                placement=_kept_apart(placement, graph),
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
_GRAPH_DIGITS = 16


def _any_there(cards: Collection[str]) -> bool:
    """Whether this ONNX Runtime has any of them: otherwise no graph need be built to say so."""
    there = onnxruntime.get_available_providers()
    return any(PROVIDERS.get(name) in there for name in cards)


def _writable(
    placement: Placement, providers: Sequence[str], require: str | None
) -> tuple[Placement, str]:
    """The placement, without a folder for compiled shapes where it cannot be written, and why.

    A card that compiles at each start is better than none. Where no provider keeps anything, no
    folder is made.
    """
    folder = placement.cache_dir
    wanted = {require} if require is not None else set(providers)
    if folder is None or not _any_there(COMPILED & wanted):
        return placement, ""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    if not reason:
        return placement, ""
    return replace(placement, cache_dir=None), (
        f"{folder} cannot keep what is compiled ({reason}), so that each start compiles anew: "
        "choose a folder that can be written"
    )


def _kept_apart(placement: Placement, graph: bytes) -> Placement:
    """A folder of this model, version of ONNX Runtime, and precision.

    The provider names its files by their shapes: it is not left to it to tell these apart.
    """
    if placement.cache_dir is None or not graph:
        return placement
    digest = hashlib.sha256(graph).hexdigest()[:_GRAPH_DIGITS]
    bits = "fp16" if placement.half else "fp32"
    name = f"{digest}-{onnxruntime.__version__}-{bits}"
    return replace(placement, cache_dir=placement.cache_dir / name)


def _build_plain(models: Models) -> bytes:
    try:
        from kernels.graphs import builder, config  # noqa: PLC0415 — an extra, for cards alone
    except ImportError as error:
        raise ModelsError(f"a card's graph is built with onnx: {error}") from error
    weights, sizes = open_weights(models)
    read = config.read_config(json.loads(sizes.read_text(encoding="utf-8")))
    return builder.build(load_file(weights), read, "plain")
