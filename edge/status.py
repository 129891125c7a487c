"""Tell the control plane what this edge serves, what it refused, and how far behind it is."""

import asyncio
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Never

import structlog

from edge.control_plane import ControlPlane
from edge.errors import ControlPlaneError
from edge.policies import Policies
from edge.reporter import Reporter

log = structlog.get_logger()


def edge_version() -> str:
    """The version of the installed package."""
    try:
        return version("pointsman")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


class Status:
    """Reports every few seconds, and at once after a swap or a refusal."""

    def __init__(
        self,
        control_plane: ControlPlane,
        policies: Policies,
        reporter: Reporter,
        *,
        interval_s: float,
    ) -> None:
        """The first report goes out as soon as the edge runs."""
        self._control_plane = control_plane
        self._policies = policies
        self._reporter = reporter
        self._interval_s = interval_s
        self._wanted = asyncio.Event()
        self._failing = False

    def announce(self) -> None:
        """Report now rather than at the next turn."""
        self._wanted.set()

    async def run(self) -> Never:
        """Report for as long as the edge lives."""
        while True:
            self._wanted.clear()
            await self._report()
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _report(self) -> None:
        try:
            await self._control_plane.report(self.body())
        except ControlPlaneError as error:
            if not self._failing:
                log.warning("status.failed", error=str(error))
            self._failing = True
        else:
            self._failing = False

    def body(self) -> dict[str, Any]:
        """The wire's form."""
        return {
            "active": {name: one.serial for name, one in self._policies.active.items()},
            "nack": list(self._policies.nacks.values()),
            "lag_s": self._reporter.lag_s(),
            "spool_depth": self._reporter.depth,
            "version": edge_version(),
        }
