"""What it costs an edge to narrow the tools of a chat, beside the whole request.

The policy asks for the embedding, so that the encoder reads each request's text whether tools are
narrowed or not; every text is another one, as a text's vector is kept. Vectors of tools are drawn:
the time does not depend on them.
"""

import base64
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter

import aiohttp
import numpy as np
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import minilm
from bench.edge import a_bundle, process
from bench.measure import Measure, at_most
from edge.chat import read_chat
from edge.metrics import Metrics
from edge.shelf import Shelf
from edge.toolbox import Toolbox, Tools
from edge.tools import HEADER, Narrower
from kernels.models import encoder_of
from kernels.tools import Refined
from kernels.tools_file import ToolsFile, write
from kernels.tools_ranking import unit
from kernels.tools_rerank import DENSE, EXAMPLES, NUMBERS, Reranker
from learners.bundle import Bundle, seal
from learners.features import Schema
from learners.lineup import Golden
from learners.scorers.linear import Linear

TOOLS, KEPT, LOOKED_AT = 200, 8, 3
SIZE = 384
NARROWING_GOAL = 0.1
"""Of the whole request."""
ADDED_GOAL = 0.15
"""The same, measured through HTTP, where a median is less steady."""


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """Narrowing by itself, and requests through an edge with and without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tools.safetensors"
        write(path, drawn(encoder_of(minilm.root()), second=False))
        found = uvloop.run(measured(path, Path(folder) / "edge", quick=quick))
    plain, narrowed, bare, looked = found
    whole = ("the whole request through the edge, p50, tools passed on", plain)
    limit = NARROWING_GOAL * plain
    return [
        at_most(f"narrowing {TOOLS} tools to {KEPT}", bare, "ms", reference=whole, limit=limit),
        at_most(
            f"narrowing {TOOLS} tools to {LOOKED_AT}, with a second look",
            looked,
            "ms",
            reference=whole,
            limit=limit,
        ),
        at_most(
            f"chat with {TOOLS} tools through the edge, p50, narrowed to {KEPT}",
            narrowed,
            "ms",
            reference=whole,
            limit=(1 + ADDED_GOAL) * plain,
        ),
    ]


def drawn(encoder: str, *, second: bool) -> ToolsFile:
    """Tools of which a fifth is not refined, each with as many examples as are kept."""
    rng = np.random.default_rng(0)
    vectors, moved = (unit(rng.normal(size=(TOOLS, SIZE))) for _ in range(2))
    favours = np.zeros(TOOLS, np.float32)
    refined = Refined(vectors, moved, favours, np.arange(TOOLS) % 5 > 0, 3.0, 0.5, 0.5, 0.6)
    places = np.arange(TOOLS * EXAMPLES).reshape(TOOLS, EXAMPLES)
    examples = unit(rng.normal(size=(places.size, SIZE)))
    weights = np.ones(NUMBERS, np.float32)
    many = np.full(TOOLS, max(DENSE, EXAMPLES))
    looked = Reranker(examples, np.arange(places.size), places, many, weights, 0.1)
    names = tuple(f"tool_{row}" for row in range(TOOLS))
    return ToolsFile(names, encoder, refined, looked if second else None)


def a_request(text: str) -> bytes:
    """A chat with one text and all tools, some 70 kB."""
    parameters = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "what is looked for, in plain words"},
            "limit": {"type": "integer", "description": "how many results are wanted at most"},
        },
        "required": ["query"],
    }
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{row}",
                "description": f"Finds, for source {row}, what suits a question best.",
                "parameters": parameters,
            },
        }
        for row in range(TOOLS)
    ]
    messages = [{"role": "user", "content": text}]
    body = {"model": "route/chat", "messages": messages, "tools": tools}
    return json.dumps(body).encode()


def narrowing(file: ToolsFile, kept: int) -> Callable[[], float]:
    """A call that takes seconds of all that narrowing adds to one request, in this process."""
    toolbox = Toolbox(None, file.encoder, Metrics(), look_s=30.0)
    toolbox.tools = Tools.of(file)
    narrower = Narrower(toolbox, Metrics(), kept=kept, has_models=True)
    chat = read_chat(a_request("Which of them?"), {})
    vector = unit(np.random.default_rng(1).normal(size=(1, SIZE)))[0].tolist()

    def work() -> float:
        started = perf_counter()
        asked = narrower.ask(chat, {})
        assert asked is not None
        _, told = narrower.narrow(chat, asked, "chat", vector)
        seconds = perf_counter() - started
        assert told[HEADER] == f"{kept}/{TOOLS};narrowed"
        return seconds

    return work


async def measured(path: Path, data_dir: Path, *, quick: bool) -> list[float]:
    """Median milliseconds, all taken in turns, so that all meet the same machine.

    Of requests whose tools are passed on, and of narrowed ones; of narrowing by itself, without
    and with a second look.
    """
    bare = narrowing(drawn("bench", second=False), KEPT)
    looked = narrowing(drawn("bench", second=True), LOOKED_AT)
    with (
        process("bench.edge_upstream", {}) as direct,
        an_edge(direct, path, data_dir) as routed,
    ):
        async with aiohttp.ClientSession() as session:
            ask = _asking(session, f"{routed}/v1/chat/completions")
            kinds = ("0", str(KEPT))
            for _ in range(20):
                for kept in kinds:
                    await ask(kept)
            rows = [
                [*[await ask(kept) for kept in kinds], bare(), looked()]
                for _ in range(100 if quick else 1000)
            ]
    return [statistics.median(times) * 1e3 for times in zip(*rows, strict=True)]


def _asking(session: aiohttp.ClientSession, url: str) -> Callable[[str], Awaitable[float]]:
    numbers = count()

    async def ask(kept: str) -> float:
        body = a_request(f"Which of them finds offer {next(numbers)} for a used bicycle in Oslo?")
        started = perf_counter()
        async with session.post(url, data=body, headers={HEADER: kept}) as answer:
            await answer.read()
            said = answer.headers.get(HEADER)
            assert (answer.status, said) == (200, _said(kept)), said
        return perf_counter() - started

    return ask


def _said(kept: str) -> str | None:
    return None if kept == "0" else f"{kept}/{TOOLS};narrowed"


def embedded(endpoint: str) -> Bundle:
    """The edge benchmark's bundle, of which every version reads the embedding."""
    made = a_bundle(endpoint)
    rows = [row for row in made.schema.as_json() if row["name"] != "embedding"]
    schema = Schema.from_json([*rows, {"name": "embedding", "kind": "vector", "size": SIZE}])
    names = made.scorer.arms
    weights = np.random.default_rng(0).normal(size=(len(names), schema.dimension)) / SIZE
    bundle = replace(made, schema=schema, scorer=Linear(names, weights, made.scorer.exploration))
    found = tuple(bundle.distribution({}, names).tolist())
    return replace(bundle, golden=(Golden({}, names, found),))


@contextmanager
def an_edge(direct: str, path: Path, data_dir: Path) -> Iterator[str]:
    """The URL of an edge with models and tools before the arm."""
    key = Ed25519PrivateKey.generate()
    sealed = seal(embedded(f"{direct}/v1"), [key])
    Shelf(data_dir / "bundles").keep("chat", sealed, etag='"1-bench"', serial=1)
    trusted = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    environ = {
        "CONTROL_PLANE_URL": direct,
        "API_KEY": "bench",
        "TRUSTED_KEYS": trusted,
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "LOG_LEVEL": "ERROR",
        "MODELS": str(minilm.root()),
        "TOOLS_FILE": str(path),
        "ENCODER_BUDGET_S": "5",
        "REQUIRE_PROVIDER": "cpu",
    }
    named = {f"POINTSMAN_EDGE_{name}": value for name, value in environ.items()}
    with process("edge.cli", named) as routed:
        yield routed
