"""An edge that is ready to route, with its control plane and its arms."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from learners.bundle import Bundle
from learners.exploration import Exploration
from tests.edge.doubles import (
    Arms,
    ControlPlaneDouble,
    EdgeClient,
    arms,
    control_plane,
    edge,
    eventually,
    make_bundle,
)

ASK = {"model": "route/chat", "messages": [{"role": "user", "content": "Capital of France?"}]}
STREAM = {**ASK, "stream": True}
CHAT = "/v1/chat/completions"
SOFT = Exploration("softmax", floor=0.1, temperature=3.0)


class Ready(AsyncExitStack):
    """An edge with its control plane, its arms and an active bundle."""

    def __init__(self, tmp_path, **changes):
        super().__init__()
        self.tmp_path = tmp_path
        self.changes = changes
        self.plane: ControlPlaneDouble
        self.pool: Arms
        self.bundle: Bundle
        self.client: EdgeClient

    async def __aenter__(self):
        await super().__aenter__()
        self.plane = await self.enter_async_context(control_plane())
        self.pool = await self.enter_async_context(arms())
        self.bundle = make_bundle(endpoint=self.pool.url, exploration=SOFT)
        self.plane.publish(self.bundle)
        self.client = await self.enter_async_context(
            edge(self.plane.url, self.tmp_path, **self.changes)
        )
        await self.client.ready()
        return self

    def fail(self, how: str, *names: str) -> None:
        self.pool.behaviour = dict.fromkeys(names, how)

    async def outcomes(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.plane.outcomes) >= count)
        return self.plane.outcomes


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 30))
