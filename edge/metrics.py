"""What an edge counts, for Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from edge.router import Decision
from learners.bundle import Bundle
from learners.head_bank import HeadGuard

MAX_VARIANTS = 512
"""Variants that are counted by name: experiments come and go, and labels stay."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Metrics:
    """The collectors of one edge, in a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    decisions: Counter = field(init=False)
    variant_decisions: Counter = field(init=False)
    challenger_errors: Counter = field(init=False)
    shadow_errors: Counter = field(init=False)
    shadow_choices: Counter = field(init=False)
    shadow_dispatches: Counter = field(init=False)
    outcomes: Counter = field(init=False)
    dropped: Counter = field(init=False)
    uploaded: Counter = field(init=False)
    upload_failures: Counter = field(init=False)
    upstream_errors: Counter = field(init=False)
    cancelled: Counter = field(init=False)
    estimated: Counter = field(init=False)
    nacks: Counter = field(init=False)
    provider_fallbacks: Counter = field(init=False)
    signals_late: Counter = field(init=False)
    signals_failed: Counter = field(init=False)
    heads_unread: Counter = field(init=False)
    guarded: Counter = field(init=False)
    tools_asked: Counter = field(init=False)
    tools_left_out: Counter = field(init=False)
    tools_refused: Counter = field(init=False)
    signal_seconds: Histogram = field(init=False)
    requests: Gauge = field(init=False)
    spool_lines: Gauge = field(init=False)
    spool_bytes: Gauge = field(init=False)
    upload_lag: Gauge = field(init=False)
    bundle_serial: Gauge = field(init=False)
    bundle_age: Gauge = field(init=False)
    bundle_expires_in: Gauge = field(init=False)
    _counted: set[tuple[str, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Register every collector."""
        for name, labels, text in _COUNTERS:
            self._set(name, Counter(f"pointsman_edge_{name}", text, labels, registry=self.registry))
        for name, metric, labels, text in _GAUGES:
            self._set(name, Gauge(f"pointsman_edge_{metric}", text, labels, registry=self.registry))
        read = Histogram(
            "pointsman_edge_signal_seconds",
            "Time to read a request's signals with models, by the tiers that were read",
            ("tiers",),
            buckets=_SIGNAL_BUCKETS,
            registry=self.registry,
        )
        self._set("signal_seconds", read)

    def count_asked(self, bundle: Bundle, decision: Decision) -> None:
        """Whom a decision's bundle had asked: who failed, and which shadows agree."""
        lineup = bundle.lineup
        if lineup.empty or decision.mode == "fallback":
            return
        policy = decision.policy
        if decision.version != _wanted(bundle, decision):
            self.challenger_errors.labels(policy).inc()
        if missing := len(lineup.shadows) - len(decision.shadows):
            self.shadow_errors.labels(policy).inc(missing)
        for shadow in decision.shadows:
            agrees = "1" if shadow.action == decision.action else "0"
            self.shadow_choices.labels(policy, agrees).inc()

    def count_guarded(self, policy: str, guards: Sequence[HeadGuard]) -> None:
        """A decision for which guards held."""
        for guard in guards:
            self.guarded.labels(policy, guard.head).inc()

    def count_variant(self, policy: str, split: str, variant: str) -> None:
        """A decision of a split's variant."""
        labels = (policy, split, variant)
        if labels not in self._counted:
            if len(self._counted) >= MAX_VARIANTS:
                labels = (policy, OTHER, OTHER)
            self._counted.add(labels)
        self.variant_decisions.labels(*labels).inc()

    def _set(self, name: str, collector: Counter | Gauge | Histogram) -> None:
        object.__setattr__(self, name, collector)


_COUNTERS = (
    ("decisions", ("policy", "mode", "action"), "Decisions served"),
    (
        "variant_decisions",
        ("policy", "split", "variant"),
        "Decisions served for a split, by variant",
    ),
    (
        "challenger_errors",
        ("policy",),
        "Decisions that a challenger could not make, so that the champion did",
    ),
    ("shadow_errors", ("policy",), "Choices that a shadow could not make"),
    (
        "shadow_choices",
        ("policy", "agrees"),
        "Choices of shadows; agrees is 1 where it is the arm that served",
    ),
    (
        "shadow_dispatches",
        ("policy", "result"),
        "Requests drawn to be sent to a shadow's arm too, and what became of each",
    ),
    ("outcomes", ("error",), "Outcomes measured; error is 0, 1 or unknown"),
    ("dropped", ("kind", "reason"), "Lines that will never reach the control plane"),
    ("uploaded", ("kind",), "Lines that the control plane has taken"),
    ("upload_failures", (), "Uploads that must be tried again"),
    ("upstream_errors", ("arm", "reason"), "Failures of arms"),
    ("cancelled", (), "Requests that the client gave up"),
    ("estimated", (), "Outcomes whose tokens are estimated, as the stream held no usage"),
    ("nacks", ("policy",), "Bundles refused"),
    ("provider_fallbacks", ("provider",), "Providers that were passed over for the encoder"),
    ("signals_late", ("tier",), "Tiers of signals that were left out for time"),
    ("signals_failed", (), "Requests whose models failed, so that only the first tier was read"),
    ("heads_unread", ("policy", "head"), "Contexts without the vector that a head reads"),
    ("guarded", ("policy", "head"), "Requests for which a head's guard held arms back"),
    (
        "tools_asked",
        ("policy", "result"),
        "Requests whose tools were to be narrowed, and what became of each",
    ),
    ("tools_left_out", ("policy",), "Tools that were not passed on, as others suit better"),
    ("tools_refused", (), "States of the file of tools that could not be used"),
)
_SIGNAL_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.25)
_GAUGES = (
    ("requests", "requests_in_flight", (), "Requests being served"),
    ("spool_lines", "spool_lines", (), "Lines waiting for upload"),
    ("spool_bytes", "spool_bytes", (), "Bytes on disk that wait for upload"),
    ("upload_lag", "upload_lag_seconds", (), "Age of the oldest line that waits for upload"),
    ("bundle_serial", "bundle_serial", ("policy",), "Serial of the bundle being served"),
    ("bundle_age", "bundle_age_seconds", ("policy",), "Time since the bundle was issued"),
    ("bundle_expires_in", "bundle_expires_in_seconds", ("policy",), "Time until it expires"),
)


def _wanted(bundle: Bundle, decision: Decision) -> int:
    """The version that was to decide: what the decision's variant names, else the champion."""
    for split in bundle.lineup.splits:
        if split.name == decision.split:
            for variant in split.variants:
                if variant.name == decision.variant and variant.version is not None:
                    return variant.version
    return bundle.version
