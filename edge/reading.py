"""Messages → a context: signals as far as a bundle asks for them, and what heads read off them.

Today's text signals are always read. Language, personal data and suspicion need no model and yet
take longer and make contexts larger: without models they are read only where a bundle names one.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
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
from kernels.signals.pipeline import Pipeline
from learners.bundle import Bundle
from learners.records import Context, ContextValue

MODEL_VECTORS = frozenset({"static", "embedding", "joint"})
"""Vectors of a context that models make; all others are there without, or are given."""
FIRST_TIER = frozenset({"language", "personal", "suspicion"})
"""Signals of the first tier that only some bundles need, and those named after them with a dot."""
AT_ONCE_CHARS = 4_096
"""What is read without models is read in the event loop up to this length: half a millisecond."""
TIERS, LATE = "tiers", "tiers.late"
log = structlog.get_logger()
Finish = Callable[[], Early | None]


class Signals(Protocol):
    """What is used of :class:`kernels.signals.pipeline.Pipeline`."""

    def read(self, messages: Sequence[object], early: Early | None = None) -> dict[str, Any]:
        """The signals of a chat's messages, less work where some of it is done already."""

    def with_heads(self, heads: HeadBank, wanted: Collection[str] | None = None) -> Self:
        """The same models, which give other vectors."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a bundle asks of its requests' contexts."""

    bundle: Bundle
    bank: HeadBank
    signals: Signals | None
    read: frozenset[str]


class Reader:
    """Makes contexts; one a process. Heads change with the bundle, the models never."""

    def __init__(self, metrics: Metrics, signals: Signals | None = None) -> None:
        """Without ``signals`` what needs no model is read: of that, what a bundle asks for."""
        self._metrics = metrics
        self._signals = signals
        self._applied: dict[str, Applied] = {}

    async def read(
        self,
        bundle: Bundle,
        messages: Sequence[object] | None,
        given: Context,
        early: Finish | None = None,
    ) -> Context:
        """The context of a request.

        What takes milliseconds (models, long texts) is done in a thread. What was ``given`` wins
        over what is read; a vector among it is what heads read. ``early`` finishes the reading of
        the same messages that began while they came.
        """
        applied = self._of(bundle)
        found: dict[str, ContextValue] = {}
        if messages is not None and applied.signals is None:
            found = dict(text.read_messages(messages))
        elif messages is not None and self._signals is None and _is_short(messages):
            found = self._modelled(applied, messages, None)
        elif messages is not None:
            found = await asyncio.to_thread(self._modelled, applied, messages, early)
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
        self, applied: Applied, messages: Sequence[object], early: Finish | None
    ) -> dict[str, ContextValue]:
        """All tiers; which were read is counted, and not part of a context.

        Where models fail, what needs none is read: heads of their vectors are blind, and guarded.
        """
        if applied.signals is None:
            raise TypeError(applied)
        started = perf_counter()
        try:
            found = applied.signals.read(messages, early() if early is not None else None)
        except Exception as error:  # noqa: BLE001 — a model's trouble must not refuse requests
            self._metrics.signals_failed.inc()
            # Its message may hold a part of the prompt.
            log.error("signals.failed", error=type(error).__name__)  # noqa: TRY400
            return dict(text.read_messages(messages))
        tiers, late = str(found.pop(TIERS, "")), str(found.pop(LATE, ""))
        self._metrics.signal_seconds.labels(tiers).observe(perf_counter() - started)
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
        signals = self._signals
        if signals is not None:
            signals = signals.with_heads(HeadBank(), wanted)
        elif any(name.partition(".")[0] in FIRST_TIER for name in read):
            signals = Pipeline(wanted=())
        return Applied(bundle, bank_of(bundle.heads), signals, read)


def _is_short(messages: Sequence[object]) -> bool:
    return sum(map(len, text.user_turns(messages)[0])) <= AT_ONCE_CHARS


def open_reader(settings: Settings, metrics: Metrics) -> Reader:
    """A reader with the models of the settings' folder; without a folder it reads without models.

    Raises:
        SignalsError: Models are missing, damaged or not installed, or the required provider does
            not run them.
    """
    if settings.models is None:
        return Reader(metrics)
    return Reader(metrics, _opened(settings.models, settings, metrics))


def _opened(folder: Path, settings: Settings, metrics: Metrics) -> Signals:
    try:
        from kernels.models import ModelsError  # noqa: PLC0415 — the extra may not be installed
        from kernels.providers import DEFAULT_ORDER, ProviderError  # noqa: PLC0415
        from kernels.signals.opening import open_pipeline  # noqa: PLC0415
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
        )
    except (ImportError, ModelsError, ProviderError, ValueError) as error:
        raise SignalsError(f"POINTSMAN_EDGE_MODELS={folder}: {error}") from error
    for fallback in opened.fallbacks:
        metrics.provider_fallbacks.labels(fallback.provider).inc()
        log.warning("provider.passed_over", provider=fallback.provider, reason=fallback.reason)
    log.info("models.open", folder=str(folder), provider=opened.provider)
    return opened.pipeline
