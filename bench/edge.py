"""The edge: how long a choice takes in the process, and what the proxy adds to a request."""

import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from time import perf_counter

import aiohttp
import numpy as np
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import Measure, at_most, main, seconds_each
from edge.app import new_id
from edge.ledger import Ledger
from edge.metrics import Metrics
from edge.router import decide
from edge.shelf import Shelf
from edge.spool import Spool
from kernels.signals.text import SIGNAL_SCHEMA, read_messages
from learners.bundle import Bundle, seal
from learners.exploration import Exploration
from learners.features import Schema
from learners.lineup import MAX_SHADOWS, Challenger, Golden, Lineup
from learners.records import Arm, Card, Context
from learners.scorers.linear import Linear

ARMS = 16
COLUMNS = 128
CONCURRENCY = 16
DECIDE_GOAL_US = 100.0
SIGNAL_GOAL_US = 200.0
ADDED_GOAL_MS = 2.0
SHADOWS_GOAL = 4.0
"""Of a choice without shadows: all of them together cost less than three more choices."""
SHADOWED_GOAL_MS = 0.5
PROMPT = (
    "My function sort_rows(rows) returns None when the list holds 3 rows or more. Could you tell "
    "me why, and write it so that it returns a new list, sorted by the second column, without "
    "changing the one it was given? Rows with an empty second column should come last, and "
    "for 10,000 rows it must stay fast."
)
MESSAGES = [{"role": "user", "content": PROMPT}]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    return [
        *in_process(quick=quick),
        *shadowed(quick=quick),
        *uvloop.run(over_http(quick=quick)),
    ]


def a_bundle(endpoint: str = "", *, shadows: int = 0) -> Bundle:
    """16 arms over 128 columns: the signals, a domain and a small embedding."""
    rest = COLUMNS - 1 - sum(f.width for f in Schema.from_json(SIGNAL_SCHEMA).features) - 24
    schema = Schema.from_json(
        [
            *SIGNAL_SCHEMA,
            {"name": "domain", "kind": "category", "values": [f"d{i}" for i in range(24)]},
            {"name": "embedding", "kind": "vector", "size": rest},
        ]
    )
    names = tuple(f"arm-{i}" for i in range(ARMS))
    weights = np.random.default_rng(0).normal(size=(ARMS, schema.dimension))
    assert weights.shape == (ARMS, COLUMNS)
    now = datetime.now(UTC)
    bundle = Bundle(
        policy="chat",
        version=1,
        serial=1,
        issued_at=now,
        expires_at=now + timedelta(days=1),
        arms=tuple(Arm(name, name, endpoint, Card(1.0, 2.0)) for name in names),
        schema=schema,
        scorer=Linear(names, weights, Exploration("softmax", floor=0.05, temperature=2.0)),
        fallback_arm=names[0],
        learner="linucb",
        wait_s=3600.0,
    )
    found = tuple(bundle.distribution({}, names).tolist())
    watching = tuple(_challenger(bundle, version) for version in range(2, 2 + shadows))
    return replace(
        bundle,
        golden=(Golden({}, names, found),),
        lineup=Lineup(watching, shadows=tuple(one.version for one in watching)),
    )


def _challenger(bundle: Bundle, version: int) -> Challenger:
    """Another version over the same features, as the next rounds of one policy are."""
    names = bundle.scorer.arms
    weights = np.random.default_rng(version).normal(size=(ARMS, COLUMNS))
    return Challenger(
        version, "linucb", bundle.schema, Linear(names, weights, bundle.scorer.exploration)
    )


def a_context(bundle: Bundle) -> Context:
    """Every feature is there."""
    size = bundle.schema.features[-1].size
    embedding = np.random.default_rng(1).normal(size=size).tolist()
    return {**read_messages(MESSAGES), "domain": "d3", "embedding": embedding}


def in_process(*, quick: bool) -> list[Measure]:
    """A choice without HTTP, against bare numpy on the same weights."""
    bundle = a_bundle()
    context, eligible = a_context(bundle), tuple(bundle.index)
    x, weights = bundle.schema.encode(context), bundle.scorer.tensors()["weights"]
    rng = np.random.default_rng(2)
    numbers = count()
    at = datetime.now(UTC)

    def bare() -> int:
        scores = weights @ x
        spread = np.exp(scores - scores.max())
        return int(np.searchsorted(np.cumsum(spread), rng.random() * spread.sum()))

    def whole() -> object:
        decision_id = new_id(at + timedelta(milliseconds=next(numbers)))
        return decide(bundle, context, decision_id=decision_id, at=at, eligible=eligible)

    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), max_bytes=2**30)
        ledger = Ledger(spool, Metrics(), "bench")
        decision = decide(bundle, context, decision_id=new_id(at), at=at, eligible=eligible)
        rounds, calls = (7, 300) if quick else (31, 1000)
        works = (bare, whole, lambda: read_messages(MESSAGES), lambda: ledger.record(decision))
        found = [s * 1e6 for s in seconds_each(works, rounds=rounds, calls=calls)]
        spool.close()
    base, choice, signal, record = found
    reference = ("bare numpy matvec, softmax, draw", base)
    return [
        at_most(
            f"decide, {ARMS} arms, {COLUMNS} columns: id, encode, score, draw, record",
            choice,
            "µs",
            reference=reference,
            limit=DECIDE_GOAL_US,
        ),
        at_most(
            f"signals of a prompt of {len(PROMPT)} characters",
            signal,
            "µs",
            reference=("decide", choice),
            limit=SIGNAL_GOAL_US,
        ),
        at_most(
            "a decision written to the spool",
            record,
            "µs",
            reference=("decide", choice),
            limit=DECIDE_GOAL_US,
        ),
    ]


def shadowed(*, quick: bool) -> list[Measure]:
    """A choice while 0, 1 and 4 versions watch, in turns."""
    at, numbers = datetime.now(UTC), count()

    def choice(shadows: int) -> Callable[[], object]:
        bundle = a_bundle(shadows=shadows)
        context, eligible = a_context(bundle), tuple(bundle.index)

        def work() -> object:
            decision_id = new_id(at + timedelta(milliseconds=next(numbers)))
            return decide(bundle, context, decision_id=decision_id, at=at, eligible=eligible)

        return work

    watching = (0, 1, MAX_SHADOWS)
    rounds, calls = (7, 300) if quick else (31, 1000)
    found = seconds_each([choice(n) for n in watching], rounds=rounds, calls=calls)
    none, one, most = (seconds * 1e6 for seconds in found)
    reference = ("decide without shadows", none)
    return [
        at_most("decide with 1 shadow", one, "µs", reference=reference, limit=2 * none),
        at_most(
            f"decide with {MAX_SHADOWS} shadows",
            most,
            "µs",
            reference=reference,
            limit=SHADOWS_GOAL * none,
        ),
    ]


async def over_http(*, quick: bool) -> list[Measure]:
    """The same chat request straight to the arm and through edges, in turns."""
    requests = 300 if quick else 3000
    async with edges_and_arm() as (direct, routed, watched), aiohttp.ClientSession() as session:

        async def ask(url: str) -> float:
            body = json.dumps({"model": "route/chat", "messages": MESSAGES}).encode()
            started = perf_counter()
            async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
                await answer.read()
                assert answer.status == 200
            return perf_counter() - started

        urls = (direct, routed, watched)
        await asyncio.gather(*(ask(url) for url in urls for _ in range(50)))
        alone = [[await ask(url) for url in urls] for _ in range(requests)]
        straight, through, seen = (
            statistics.median(times) * 1e3 for times in zip(*alone, strict=True)
        )
        busy = {url: await _throughput(ask, url, requests) for url in (direct, routed)}
    return [
        at_most(
            "chat through the edge, p50, one at a time",
            through,
            "ms",
            reference=("the same request straight to the arm", straight),
            limit=straight + ADDED_GOAL_MS,
        ),
        at_most(
            f"chat through the edge with {MAX_SHADOWS} shadows, p50, one at a time",
            seen,
            "ms",
            reference=("the same without shadows", through),
            limit=through + SHADOWED_GOAL_MS,
        ),
        Measure(
            measure=f"chat through the edge, {CONCURRENCY} at a time",
            value=round(busy[routed]),
            unit="requests/s",
            reference=f"the same requests straight to the arm: {busy[direct]:.0f} requests/s",
            ratio=round(busy[routed] / busy[direct], 3),
        ),
    ]


async def _throughput(ask: object, url: str, requests: int) -> float:
    assert callable(ask)

    async def some() -> None:
        for _ in range(requests // CONCURRENCY):
            await ask(url)

    started = perf_counter()
    await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
    return requests // CONCURRENCY * CONCURRENCY / (perf_counter() - started)


@asynccontextmanager
async def edges_and_arm() -> AsyncIterator[tuple[str, str, str]]:
    """URLs of the arm, and of edges before it without shadows and with: a process each."""
    with (
        process("bench.edge_upstream", {}) as direct,
        an_edge(direct, shadows=0) as routed,
        an_edge(direct, shadows=MAX_SHADOWS) as watched,
    ):
        yield direct, routed, watched


@contextmanager
def an_edge(direct: str, *, shadows: int) -> Iterator[str]:
    """The URL of an edge before the arm."""
    key = Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory() as folder:
        sealed = seal(a_bundle(f"{direct}/v1", shadows=shadows), [key])
        Shelf(Path(folder) / "bundles").keep("chat", sealed, etag='"1-bench"', serial=1)
        environ = {
            "POINTSMAN_EDGE_CONTROL_PLANE_URL": direct,
            "POINTSMAN_EDGE_API_KEY": "bench",
            "POINTSMAN_EDGE_TRUSTED_KEYS": base64.b64encode(
                key.public_key().public_bytes_raw()
            ).decode(),
            "POINTSMAN_EDGE_DATA_DIR": folder,
            "POINTSMAN_EDGE_PORT": "0",
            "POINTSMAN_EDGE_LOG_LEVEL": "ERROR",
        }
        with process("edge.cli", environ) as routed:
            yield routed


@contextmanager
def process(module: str, environ: Mapping[str, str]) -> Iterator[str]:
    """A program that prints its port in its first line; stopped at the end."""
    child = subprocess.Popen(
        [sys.executable, "-m", module],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(child.stdout.readline())['port']}"
        finally:
            child.terminate()
            child.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main(run))
