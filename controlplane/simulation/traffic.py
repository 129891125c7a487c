"""Traffic: simulated users who ask the edge, grade the answers, and tell the control plane.

It goes on when either side is away. Since the world is a pure function, each graded request is
kept with what every arm would have earned by it.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import numpy as np

from controlplane.simulation import calls
from controlplane.simulation.contract import AnyWorld, Moment, Query, WorldError, check
from controlplane.simulation.grading import quality_of, reward_of, worth
from controlplane.simulation.habits import Habits, Post, posts
from controlplane.simulation.tally import Tally, Truth

METRIC = "score"
MAX_RATE_PER_S = 10_000.0
MAX_CONCURRENCY = 4_096
MAX_DUE = 20_000
"""Sendings of feedback that may wait for their time."""
ASK_TIMEOUT_S = 60.0


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Requests at random moments, as many a second as asked for, to ``route/<policy>``.

    Attributes:
        world: the world that the pool serves; set it anew when the pool is changed by hand, so
            that the truths stay true. Drifts by request or second count from this traffic's start.
        edge_key: sent to an edge that asks for a key.
        concurrency: requests under way; what comes on top is skipped and counted.
    """

    edge_url: str
    control_plane_url: str
    api_key: str
    policy: str
    world: AnyWorld
    rate_per_s: float
    seed: int = 0
    edge_key: str = ""
    concurrency: int = 64
    habits: Habits = field(default_factory=Habits)
    tally: Tally = field(default_factory=Tally, init=False)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _started: float = field(default=0.0, init=False)
    _asking: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _telling: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _defect: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Refuse addresses, rates and sizes that can not be."""
        for name in ("edge_url", "control_plane_url"):
            url = getattr(self, name)
            if not url.startswith(("http://", "https://")):
                raise WorldError(f"{name} is {url!r}: give a URL that starts with http")
        check("rate_per_s", self.rate_per_s, 1e-3, MAX_RATE_PER_S)
        check("concurrency", self.concurrency, 1, MAX_CONCURRENCY)

    def stop(self) -> None:
        """Send no more requests; :meth:`run` ends when those under way have."""
        self._stopped.set()

    async def run(self, *, requests: int | None = None) -> Tally:
        """Send requests until so many were sent, or until :meth:`stop`."""
        self._started = time.monotonic()
        count = sys.maxsize if requests is None else requests
        limits = aiohttp.TCPConnector(limit=2 * self.concurrency)
        async with aiohttp.ClientSession(connector=limits) as http:
            try:
                async for number, query in self._arrivals(count):
                    if len(self._asking) >= self.concurrency:
                        self.tally.skipped += 1
                    else:
                        self._spawn(self._asking, self._serve(http, number, query))
                if self._asking:
                    await asyncio.wait(self._asking)
                if self._telling:
                    await asyncio.wait(self._telling, timeout=self.habits.drain_s)
            finally:
                await self._abandon()
        return self.tally

    async def _arrivals(self, count: int) -> AsyncIterator[tuple[int, Query]]:
        """Queries with Poisson gaps; a delay is caught up with, so the rate holds."""
        rng = random.Random(self.seed)
        due = self._started
        queries = self.world.prompts(count, np.random.default_rng(self.seed))
        for number, query in enumerate(queries):
            due += rng.expovariate(self.rate_per_s)
            await self._sleep(due - time.monotonic())
            if self._stopped.is_set():
                return
            yield number, query

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until :meth:`stop`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return

    async def _serve(self, http: aiohttp.ClientSession, number: int, query: Query) -> None:
        """One request from the question to the planned feedback."""
        rng = random.Random(f"{self.seed}|{number}")
        began = time.monotonic()
        t = Moment(number, began - self._started)
        self.tally.requests += 1
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                reply = await self._ask(
                    http, query, streamed=rng.random() < self.habits.stream_share
                )
        except TimeoutError:
            self.tally.errors["timeout"] += 1
            return
        except aiohttp.ClientError:
            self.tally.errors["unreachable"] += 1
            return
        except calls.BrokenAnswerError:
            self.tally.errors["broken"] += 1
            return
        score = self._grade(reply)
        if score is None:
            return
        if reply.arm in self.world.arm_names:
            self.tally.add(self._truth(query, t, reply, score), time.monotonic() - began)
        self._plan_feedback(http, reply.decision_id, score, rng)

    async def _ask(
        self, http: aiohttp.ClientSession, query: Query, *, streamed: bool
    ) -> calls.Reply:
        body: dict[str, Any] = {
            "model": f"route/{self.policy}",
            "messages": [{"role": "user", "content": query.prompt}],
        }
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        url = f"{self.edge_url.rstrip('/')}/v1/chat/completions"
        return await calls.ask(http, url, body, _headers(self.edge_key))

    def _grade(self, reply: calls.Reply) -> float | None:
        """What a user thinks of it: an error is worth nothing; None when there is no saying."""
        if reply.status == 200:
            score = quality_of(reply.text)
            if score is None:
                self.tally.errors["ungraded"] += 1
            return score
        self.tally.errors[f"http_{reply.status}"] += 1
        return 0.0 if reply.decision_id else None

    def _truth(self, query: Query, t: Moment, reply: calls.Reply, score: float) -> Truth:
        answers = {
            arm: self.world.answer(query.key, arm, query.prompt, t=t)
            for arm in self.world.arm_names
        }
        cost_usd = answers[reply.arm].cost_usd if reply.status == 200 else 0.0
        return Truth(
            request=t.request,
            at_s=t.elapsed_s,
            domain=query.domain,
            served=reply.arm,
            decision_id=reply.decision_id,
            score=score,
            cost_usd=cost_usd,
            reward=worth(score, cost_usd),
            rewards={arm: reward_of(answer) for arm, answer in answers.items()},
        )

    def _plan_feedback(
        self, http: aiohttp.ClientSession, decision_id: str, score: float, rng: random.Random
    ) -> None:
        if not decision_id:
            self.tally.errors["no_decision_id"] += 1
            return
        at = datetime.now(UTC).isoformat()
        body = {"decision_id": decision_id, "metric": METRIC, "value": score, "occurred_at": at}
        for post in posts(self.habits, rng):
            if len(self._telling) >= MAX_DUE:
                self.tally.feedback["dropped"] += 1
            else:
                self._spawn(self._telling, self._tell(http, body, post, rng))

    async def _tell(
        self, http: aiohttp.ClientSession, body: Mapping[str, Any], post: Post, rng: random.Random
    ) -> None:
        headers = _headers(self.api_key)
        if post.keyed:
            headers["idempotency-key"] = f"{body['decision_id']}:{METRIC}"
        url = f"{self.control_plane_url.rstrip('/')}/v1/feedback"
        await asyncio.sleep(post.after_s)
        ended = await calls.tell(http, url, body, headers, rng)
        self.tally.feedback[ended] += 1

    def _spawn(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        def end(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self._defect = task.exception()
                self.stop()

        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(end)

    async def _abandon(self) -> None:
        """Cancel what is still under way, and wait until it has ended."""
        self.tally.feedback["dropped"] += len(self._telling)
        left = [*self._asking, *self._telling]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self._defect is not None:
            raise self._defect


def _headers(key: str) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers
