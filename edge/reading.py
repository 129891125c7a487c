"""Messages → a context: signals as far as a bundle asks for them, and what heads read off them.

Today's text signals are always read. Language, personal data and suspicion need no model and yet
take longer and make contexts larger: without models they are read only where a bundle names one.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, Self

import structlog

from edge.errors import SignalsError
from edge.heads import answers, bank_of
from edge.metrics import Metrics
from edge.settings import Settings
from kernels.intake import Early
from kernels.signals import text
from kernels.signals.heads import HeadBank
from kernels.signals.pipeline import ENCODED, VECTORS, Pipeline
from learners.bundle import Bundle
from learners.records import Context, ContextValue

MODEL_VECTORS = frozenset(VECTORS) - {"grams"}
"""Vectors of a context that models make; all others are there without, or are given."""
EMBEDDING = "embedding"
EMBEDDED = frozenset({EMBEDDING})
REASKED = frozenset({"reask", "reask.cosine"})
FIRST_TIER = frozenset({"language", "personal", "suspicion"})
"""Signals of the first tier that only some bundles need, and those named after them with a dot."""
ALONE_CHARS, ALONE_MESSAGES = 262_144, 4_096
"""Above these a request is read in a thread of its own: its patterns alone take 40 milliseconds."""
AT_ONCE_CHARS = 4_096
"""What is read without models is read in the event loop up to this length: half a millisecond."""
TIERS, LATE = "tiers", "tiers.late"
log = structlog.get_logger()
Finish = Callable[[], Early | None]


class Signals(Protocol):
    """What is used of :class:`kernels.signals.pipeline.Pipeline`."""

    def read(
        self,
        messages: Sequence[object],
        early: Early | None = None,
        *,
        started: float | None = None,
    ) -> dict[str, Any]:
        """The signals of a chat's messages, less work where some of it is done already.

        What costs much is left out where too long has passed since ``started``.
        """

    def with_heads(self, heads: HeadBank, wanted: Collection[str] | None = None) -> Self:
        """The same models, which give other vectors."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a bundle asks of its requests' contexts.

    ``embedding`` are the signals that give the embedding whether the bundle asks for it or not,
    None without models. What is read for another signal's sake alone is ``unasked``, and no part
    of a context.
    """

    bundle: Bundle
    bank: HeadBank
    signals: Signals | None
    embedding: Signals | None
    unasked: frozenset[str]
    read: frozenset[str]

    def asked(self, found: Context) -> Context:
        """Of what was read, what belongs in a context."""
        return {name: value for name, value in found.items() if name not in self.unasked}


class Reader:
    """Makes contexts; one a process. Heads change with the bundle, the models never.

    What takes milliseconds (models, long texts) is done in threads of its own, as many at once as
    there are ``threads``: passes of an encoder that share a core all end late. Requests wait for
    them in the order in which they came, and the longer one has waited, the less is read of it.
    """

    def __init__(
        self,
        metrics: Metrics,
        signals: Signals | None = None,
        encoder: str | None = None,
        *,
        threads: int = 1,
    ) -> None:
        """Without ``signals`` what needs no model is read: of that, what a bundle asks for.

        ``encoder`` says which one the signals' embedding is of.
        """
        self.encoder = encoder
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="signals")
        self._metrics = metrics
        self._signals = signals
        self._applied: dict[str, Applied] = {}

    async def read(
        self,
        bundle: Bundle,
        messages: Sequence[object] | None,
        given: Context,
        early: Finish | None = None,
        *,
        started: float | None = None,
    ) -> Context:
        """The context of a request.

        What was ``given`` wins over what is read; a vector among it is what heads read. ``early``
        finishes the reading of the same messages that began while they came. The budgets of models
        count from ``started``, when the request was there (``perf_counter``); None: now.
        """
        applied = self._of(bundle)
        found: Context = {}
        if messages is not None:
            found = await self._found(applied.signals, messages, early, started)
        return self._answered(applied, applied.asked(found), given)

    async def read_embedded(
        self,
        bundle: Bundle,
        messages: Sequence[object],
        given: Context,
        early: Finish | None = None,
        *,
        started: float | None = None,
    ) -> tuple[Context, list[float] | None]:
        """The same context, and beside it the last user turn's embedding.

        None where there is no encoder, or its turn came too late.
        """
        applied = self._of(bundle)
        signals = applied.embedding or applied.signals
        found = await self._found(signals, messages, early, started)
        vector = found.get(EMBEDDING)
        embedding = vector if isinstance(vector, list) else None
        return self._answered(applied, applied.asked(found), given), embedding

    def close(self) -> None:
        """End the threads; what still waits for them is given up."""
        self._threads.shutdown(cancel_futures=True)

    async def _found(
        self,
        signals: Signals | None,
        messages: Sequence[object],
        early: Finish | None,
        started: float | None,
    ) -> Context:
        if signals is None:
            return dict(text.read_messages(messages))
        started = perf_counter() if started is None else started
        if self._signals is None and _is_short(messages):
            return self._modelled(signals, messages, None, started)
        # What takes long is not to hold up all others: patterns read every character.
        threads = None if _is_long(messages) else self._threads
        return await asyncio.get_running_loop().run_in_executor(
            threads, self._modelled, signals, messages, early, started
        )

    def _answered(self, applied: Applied, found: Context, given: Context) -> Context:
        """What was read, what heads make of it, and what was given."""
        bundle = applied.bundle
        if not bundle.heads.served:
            return {**found, **given}
        context = {**found, **given}
        told = answers(bundle.heads, applied.bank, context, applied.read)
        for head in bundle.heads.served:
            if head.feature not in context:
                self._metrics.heads_unread.labels(bundle.policy, head.name).inc()
        return {**found, **told, **given}

    def reads_whole(self, bundle: Bundle) -> bool:
        """Whether all of a chat's text is read for this bundle, not some thousand characters."""
        return self._of(bundle).signals is not None

    def _modelled(
        self, signals: Signals, messages: Sequence[object], early: Finish | None, started: float
    ) -> dict[str, ContextValue]:
        """All tiers; which were read is counted, and not part of a context.

        Where models fail, what needs none is read: heads of their vectors are blind, and guarded.
        """
        taken_up = perf_counter()
        try:
            found = signals.read(messages, early() if early is not None else None, started=started)
        except Exception as error:  # noqa: BLE001 — a model's trouble must not refuse requests
            self._metrics.signals_failed.inc()
            # Its message may hold a part of the prompt.
            log.error("signals.failed", error=type(error).__name__)  # noqa: TRY400
            return dict(text.read_messages(messages))
        tiers, late = str(found.pop(TIERS, "")), str(found.pop(LATE, ""))
        self._metrics.signal_seconds.labels(tiers).observe(perf_counter() - taken_up)
        for tier in filter(None, late.split(",")):
            self._metrics.signals_late.labels(tier).inc()
        return found

    def _of(self, bundle: Bundle) -> Applied:
        applied = self._applied.get(bundle.policy)
        if applied is None or applied.bundle is not bundle:
            applied = self._applied[bundle.policy] = self._apply(bundle)
        return applied

    def _apply(self, bundle: Bundle) -> Applied:
        """Heads of a new bundle, and of the signals that cost something those that it asks for."""
        schemas = (bundle.schema, *(one.schema for one in bundle.lineup.challengers))
        read = frozenset(feature.name for schema in schemas for feature in schema.features)
        wanted = MODEL_VECTORS & {*read, *(name for name, _ in bundle.heads.logged)}
        signals, embedding = self._signals, None
        reasked = read & REASKED  # is told off embeddings, whether they are named or not
        unasked = EMBEDDED - wanted if wanted & ENCODED or reasked else EMBEDDED | REASKED
        if signals is not None:
            embedding = signals.with_heads(HeadBank(), wanted | EMBEDDED)
            signals = embedding if reasked else signals.with_heads(HeadBank(), wanted)
        elif any(name.partition(".")[0] in FIRST_TIER for name in read):
            signals = Pipeline(wanted=())
        return Applied(bundle, bank_of(bundle.heads), signals, embedding, unasked, read)


def _is_short(messages: Sequence[object]) -> bool:
    # Any number of messages may be empty, and to look at each takes time too.
    few = len(messages) <= text.MAX_MESSAGES
    return few and sum(map(len, text.guarded_texts(messages))) <= AT_ONCE_CHARS


def _is_long(messages: Sequence[object]) -> bool:
    """Whether so much is said that it is read beside the others, not in their queue."""
    if len(messages) > ALONE_MESSAGES:
        return True
    return sum(map(len, text.guarded_texts(messages))) > ALONE_CHARS


def open_reader(settings: Settings, metrics: Metrics) -> Reader:
    """A reader with the models of the settings' folder; without a folder it reads without models.

    Raises:
        SignalsError: Models are missing, damaged or not installed, the required provider does not
            run them, or one is required and there are no models for it.
    """
    if settings.models is not None:
        opened = _opened(settings.models, settings, metrics)
        return Reader(metrics, *opened, threads=settings.read_threads)
    if settings.require_provider is not None:
        raise SignalsError(
            f"POINTSMAN_EDGE_REQUIRE_PROVIDER={settings.require_provider} is set, and without "
            "POINTSMAN_EDGE_MODELS there is no encoder for it to run: set that to the folder which "
            "`pointsman models fetch` fills, or unset the provider"
        )
    return Reader(metrics, threads=settings.read_threads)


def _opened(folder: Path, settings: Settings, metrics: Metrics) -> tuple[Signals, str]:
    try:
        from kernels.models import ModelsError, encoder_of  # noqa: PLC0415 — an extra
        from kernels.providers import DEFAULT_ORDER, Placement, ProviderError  # noqa: PLC0415
        from kernels.signals.opening import KEPT_IN, open_pipeline  # noqa: PLC0415
        from kernels.signals.pipeline import Budgets  # noqa: PLC0415
    except ImportError as error:
        raise SignalsError(
            f"POINTSMAN_EDGE_MODELS is set, and {error.name or error} is not installed: "
            "pip install 'pointsman[models]', or unset it"
        ) from error
    try:
        opened = open_pipeline(
            folder,
            budgets=Budgets(
                settings.static_budget_s, settings.encoder_budget_s, settings.reask_budget_s
            ),
            providers=settings.providers or DEFAULT_ORDER,
            require=settings.require_provider,
            placement=Placement(
                device=settings.device,
                cache_dir=settings.compiled_dir or folder / KEPT_IN,
                half=settings.half_precision,
            ),
        )
        encoder = encoder_of(folder)
    except ProviderError as error:
        required = settings.require_provider
        order = ",".join(settings.providers or DEFAULT_ORDER)
        name = f"REQUIRE_PROVIDER={required}" if required else f"PROVIDERS={order}"
        raise SignalsError(f"POINTSMAN_EDGE_{name}: {error}") from error
    except (ImportError, ModelsError, ValueError) as error:
        raise SignalsError(f"POINTSMAN_EDGE_MODELS={folder}: {error}") from error
    for fallback in opened.fallbacks:
        metrics.provider_fallbacks.labels(fallback.provider).inc()
        log.warning("provider.passed_over", provider=fallback.provider, reason=fallback.reason)
    for note in opened.notes:
        log.warning("models.note", reason=note)
    log.info("models.open", folder=str(folder), provider=opened.provider)
    return opened.pipeline, encoder
