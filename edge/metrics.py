"""What an edge counts, for Prometheus."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True)
class Metrics:
    """The collectors of one edge, in a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    decisions: Counter = field(init=False)
    outcomes: Counter = field(init=False)
    dropped: Counter = field(init=False)
    uploaded: Counter = field(init=False)
    upload_failures: Counter = field(init=False)
    upstream_errors: Counter = field(init=False)
    cancelled: Counter = field(init=False)
    estimated: Counter = field(init=False)
    nacks: Counter = field(init=False)
    requests: Gauge = field(init=False)
    spool_lines: Gauge = field(init=False)
    spool_bytes: Gauge = field(init=False)
    upload_lag: Gauge = field(init=False)
    bundle_serial: Gauge = field(init=False)
    bundle_age: Gauge = field(init=False)
    bundle_expires_in: Gauge = field(init=False)

    def __post_init__(self) -> None:
        """Register every collector."""
        for name, labels, text in _COUNTERS:
            self._set(name, Counter(f"pointsman_edge_{name}", text, labels, registry=self.registry))
        for name, metric, labels, text in _GAUGES:
            self._set(name, Gauge(f"pointsman_edge_{metric}", text, labels, registry=self.registry))

    def _set(self, name: str, collector: Counter | Gauge) -> None:
        object.__setattr__(self, name, collector)


_COUNTERS = (
    ("decisions", ("policy", "mode", "action"), "Decisions served"),
    ("outcomes", ("error",), "Outcomes measured; error is 0, 1 or unknown"),
    ("dropped", ("kind", "reason"), "Lines that will never reach the control plane"),
    ("uploaded", ("kind",), "Lines that the control plane has taken"),
    ("upload_failures", (), "Uploads that must be tried again"),
    ("upstream_errors", ("arm", "reason"), "Failures of arms"),
    ("cancelled", (), "Requests that the client gave up"),
    ("estimated", (), "Outcomes whose tokens are estimated, as the stream held no usage"),
    ("nacks", ("policy",), "Bundles refused"),
)
_GAUGES = (
    ("requests", "requests_in_flight", (), "Requests being served"),
    ("spool_lines", "spool_lines", (), "Lines waiting for upload"),
    ("spool_bytes", "spool_bytes", (), "Bytes on disk that wait for upload"),
    ("upload_lag", "upload_lag_seconds", (), "Age of the oldest line that waits for upload"),
    ("bundle_serial", "bundle_serial", ("policy",), "Serial of the bundle being served"),
    ("bundle_age", "bundle_age_seconds", ("policy",), "Time since the bundle was issued"),
    ("bundle_expires_in", "bundle_expires_in_seconds", ("policy",), "Time until it expires"),
)
