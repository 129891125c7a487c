"""The demo's own client: it declares everything over HTTP, as any operator would."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from controlplane.simulation.contract import AnyWorld
from controlplane.simulation.grading import COST_REF_USD, COST_WEIGHT
from controlplane.simulation.traffic import METRIC

POOL, POLICY = "demo", "chat"
WAIT_S = 8.0
"""How long the demo waits for feedback: short, so that one can watch."""
READY_S = 60.0


class DemoError(Exception):
    """The control plane or the edge answers other than the demo expects."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo's parts listen."""

    api: str
    edge: str
    pool: str


class Client:
    """Calls to the control plane with the admin key."""

    def __init__(self, places: Places, key: str) -> None:
        self._places = places
        self._headers = {"authorization": f"Bearer {key}"}
        self._http = aiohttp.ClientSession()

    async def __aenter__(self) -> Self:
        """Open."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self._http.close()

    async def declare(
        self, world: AnyWorld, gate: Mapping[str, Any], release: Mapping[str, Any]
    ) -> None:
        """Declare the pool's arms, the metric, the policy and its reward."""
        for arm in world.arm_names:
            card = world.card(arm)
            prices = {name: card[name] for name in ("usd_per_mtok_in", "usd_per_mtok_out")}
            body = {"model": arm, "endpoint": f"{self._places.pool}/v1", "card": prices}
            await self._put(f"/v1/pools/{POOL}/arms/{arm}", body)
        await self._put(
            f"/v1/metrics/{METRIC}", {"type": "float", "range": [0, 1], "wait_s": WAIT_S}
        )
        await self._put(
            f"/v1/policies/{POLICY}",
            {
                "pool": POOL,
                "learners": [
                    {"name": "linucb", "params": {"ridge": 1.0}},
                    {"name": "vw"},
                    {"name": "river"},
                ],
                "auto_promote": True,
                "gate": dict(gate),
                "release": dict(release),
            },
        )
        expression = f"{METRIC} - {COST_WEIGHT}*cost_usd/{COST_REF_USD}"
        await self._put(f"/v1/rewards/{POLICY}", {"expression": expression})

    async def edge_ready(self) -> None:
        """Wait until the edge serves a bundle of the policy.

        Raises:
            DemoError: It does not within a minute.
        """
        for _ in range(int(READY_S * 5)):
            try:
                async with self._http.get(f"{self._places.edge}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
        raise DemoError("the edge has no bundle after a minute: read its log")

    async def get(self, path: str) -> Any:
        """A JSON answer.

        Raises:
            DemoError: It is an error.
        """
        async with self._http.get(self._places.api + path, headers=self._headers) as answer:
            return await self._answer(answer, path)

    async def _put(self, path: str, body: Mapping[str, Any]) -> None:
        url = self._places.api + path
        async with self._http.put(url, json=body, headers=self._headers) as answer:
            await self._answer(answer, path)

    async def _answer(self, answer: aiohttp.ClientResponse, path: str) -> Any:
        if answer.status >= 300:
            raise DemoError(f"{path}: {answer.status}: {(await answer.text())[:500]}")
        return await answer.json() if answer.content_length != 0 else None
