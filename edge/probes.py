"""Is it alive, is it ready, what does it count."""

from collections.abc import Callable
from datetime import datetime

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from edge.errors import ProblemError
from edge.metrics import Metrics
from edge.policies import RETRY_AFTER_S, Policies
from edge.reporter import Reporter
from edge.spool import Spool


class Probes:
    """``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(
        self,
        policies: Policies,
        spool: Spool,
        reporter: Reporter,
        metrics: Metrics,
        *,
        now: Callable[[], datetime],
    ) -> None:
        """``now`` is the clock."""
        self._policies = policies
        self._spool = spool
        self._reporter = reporter
        self._metrics = metrics
        self._now = now

    async def health(self, _: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"status": "alive"})

    async def ready(self, _: web.Request) -> web.Response:
        """Every configured policy has a bundle, if only an expired one."""
        missing = self._policies.missing
        if missing:
            raise ProblemError(
                503,
                "not_ready",
                f"no bundle yet for {missing}",
                retry_after_s=RETRY_AFTER_S,
                remedy="publish a version of each policy, or read this edge's log",
            )
        serials = {name: one.serial for name, one in self._policies.active.items()}
        body = msgspec.json.encode({"status": "ready", "serials": serials})
        return web.Response(body=body, content_type="application/json")

    async def scrape(self, _: web.Request) -> web.Response:
        """Prometheus's text."""
        metrics, now = self._metrics, self._now()
        metrics.spool_lines.set(self._spool.depth)
        metrics.spool_bytes.set(self._spool.size_bytes)
        metrics.upload_lag.set(self._reporter.lag_s())
        for name, bundle in self._policies.active.items():
            metrics.bundle_serial.labels(name).set(bundle.serial)
            metrics.bundle_age.labels(name).set((now - bundle.issued_at).total_seconds())
            left = (bundle.expires_at - now).total_seconds()
            metrics.bundle_expires_in.labels(name).set(left)
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
