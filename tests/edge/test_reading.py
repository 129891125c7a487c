"""Contexts: what costs something is read only where a bundle names it, and only while it is early.

Budgets are those of real threads, so they are far apart: a pass takes 0.1 s, its budget is 0.5 s.
"""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import Counter

from bench import minilm
from edge.errors import SignalsError
from edge.metrics import Metrics
from edge.reading import AT_ONCE_CHARS, FIRST_TIER, REASKED, Reader, open_reader
from kernels.signals.encoder import Encoder, Floats, Ids
from kernels.signals.pipeline import Budgets, Pipeline
from kernels.signals.text import SIGNAL_SCHEMA, read
from kernels.signals.tokens import Tokens
from learners.bundle import Bundle
from learners.lineup import Challenger, Lineup
from tests.edge.doubles import eventually, make_bundle, replaced, settings
from tests.edge.naming import LANGUAGE, MAIL, naming
from tests.edge.ready import Ready, run
from tests.edge.test_cli import start_in_vain
from tests.kernels.encoders import minilm as weights

TEXT = "Schreib bitte an ann.lee@example.org, wo der nächste Bahnhof ist."
TWICE = ("What is the capital of France?", "What's the capital city of France?")
EMBEDDING = {"name": "embedding", "kind": "vector", "size": 384}
PATIENT = {"static_budget_s": 9, "encoder_budget_s": 9, "reask_budget_s": 9}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def models() -> Path:
    pytest.importorskip("onnxruntime")
    return minilm.root()


@pytest.fixture(scope="module")
def missing() -> list[str]:
    """Providers that this machine's ONNX Runtime lacks, best first."""
    providers = pytest.importorskip("kernels.providers")
    there = pytest.importorskip("onnxruntime").get_available_providers()
    return [short for short, name in providers.PROVIDERS.items() if name not in there]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def reader(tmp_path: Path, models: Path, metrics: Metrics) -> Reader:
    return open_reader(settings(NOWHERE, tmp_path, models=models, **PATIENT), metrics)


class Slow:
    """An encoder that takes its time, and knows how many of its passes ever ran at once."""

    def __init__(self) -> None:
        self.most = self.running = 0
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[Ids]) -> Floats:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        sleep(0.1)
        with self._lock:
            self.running -= 1
        return np.full((len(texts), 384), 384**-0.5, dtype=np.float32)


def said(*turns: str) -> list[object]:
    return [{"role": "user", "content": turn} for turn in turns]


def count(metric: Counter, label: str) -> float:
    found: float = metric.labels(label)._value.get()
    return found


def context_of(bundle: Bundle, text: str, metrics: Metrics | None = None) -> dict[str, Any]:
    reader = Reader(metrics or Metrics())
    return dict(asyncio.run(reader.read(bundle, [{"role": "user", "content": text}], {})))


def test_a_policy_of_text_signals_gets_those_alone() -> None:
    metrics = Metrics()
    found = context_of(make_bundle(), TEXT, metrics)
    assert set(found) == {row["name"] for row in SIGNAL_SCHEMA}
    assert not Reader(metrics).reads_whole(make_bundle())


@pytest.mark.parametrize(
    "row",
    [
        LANGUAGE,
        MAIL,
        {"name": "personal", "kind": "flag"},
        {"name": "personal.score", "kind": "number"},
        {"name": "suspicion", "kind": "number"},
    ],
    ids=lambda row: row["name"],
)
def test_a_policy_that_names_a_signal_of_the_first_tier_gets_it(row: dict[str, Any]) -> None:
    found = context_of(naming(row), TEXT)
    assert found["language"] == "de"
    assert found["personal"] is True
    assert found["personal.email"] is True
    assert 0 <= found["suspicion"] < 1
    assert read(TEXT).items() <= found.items()
    assert {name.partition(".")[0] for name in found} >= FIRST_TIER
    assert "tiers" not in found


def test_a_challenger_that_names_one_is_enough() -> None:
    of = naming(LANGUAGE, serial=2)
    watching = Challenger(2, "linucb", of.schema, of.scorer)
    bundle = replaced(make_bundle(), lineup=Lineup((watching,), shadows=(2,)))
    assert context_of(bundle, TEXT)["language"] == "de"


def test_what_stands_in_the_middle_of_a_long_text_is_found() -> None:
    half = "The boat lies in the harbour. " * 2_000
    assert len(half) > AT_ONCE_CHARS
    found = context_of(naming(MAIL), f"{half}Mail ann.lee@example.org now. {half}")
    assert found["personal.email"] is True


def test_what_was_given_wins_over_what_is_read() -> None:
    reader = Reader(Metrics())
    asked = [{"role": "user", "content": TEXT}]
    found = asyncio.run(reader.read(naming(LANGUAGE), asked, {"language": "fr"}))
    assert found["language"] == "fr"


@pytest.mark.parametrize(
    "row", [{"name": "reask", "kind": "flag"}, {"name": "reask.cosine", "kind": "number"}]
)
def test_a_policy_that_names_asking_again_gets_it_and_no_vector(
    reader: Reader, row: dict[str, Any]
) -> None:
    bundle = naming(row)
    found = asyncio.run(reader.read(bundle, said(*TWICE), {}))
    assert found["reask"] is True
    assert 0.8 <= float(str(found["reask.cosine"])) < 1
    other = asyncio.run(reader.read(bundle, said("Bake me a cake.", TWICE[0]), {}))
    assert other["reask"] is False
    assert set(found) == set(other)
    assert "embedding" not in found
    again, embedding = asyncio.run(reader.read_embedded(bundle, said(*TWICE), {}))
    assert again == found
    assert embedding is not None
    assert len(embedding) == 384


def test_a_policy_that_names_neither_has_no_encoder_run(reader: Reader, metrics: Metrics) -> None:
    found = asyncio.run(reader.read(make_bundle(), said(*TWICE), {}))
    assert not REASKED & set(found)
    tiers = {row.labels["tiers"] for one in metrics.signal_seconds.collect() for row in one.samples}
    assert tiers == {"text"}


def test_a_request_that_has_waited_too_long_gets_the_first_tier_alone(
    reader: Reader, metrics: Metrics
) -> None:
    bundle, long_ago = naming(EMBEDDING), perf_counter() - 60
    found = asyncio.run(reader.read(bundle, said(TEXT), {}, started=long_ago))
    assert set(found) >= FIRST_TIER
    assert "embedding" not in found
    assert count(metrics.signals_late, "encoder") == 1
    assert "embedding" in asyncio.run(reader.read(bundle, said(TEXT), {}, started=perf_counter()))


@pytest.mark.parametrize("threads", [1, 2])
def test_of_many_requests_at_once_the_last_are_late_and_all_are_answered(
    threads: int, metrics: Metrics
) -> None:
    slow = Slow()
    pipeline = Pipeline(
        tokens=Tokens(weights().folder / "tokenizer.json"),
        encoder=Encoder(slow),
        budgets=Budgets(encoder_s=0.5),
    )
    reader, bundle = Reader(metrics, pipeline, threads=threads), naming(EMBEDDING)

    async def scenario() -> list[dict[str, Any]]:
        asked = (reader.read(bundle, said(f"{TEXT} {number}"), {}) for number in range(30))
        return [dict(found) for found in await asyncio.gather(*asked)]

    contexts = asyncio.run(scenario())
    reader.close()
    assert all(set(found) >= FIRST_TIER and found["personal.email"] for found in contexts)
    embedded = ["embedding" in found for found in contexts]
    assert embedded[0]
    assert sum(embedded) <= 6 * threads
    assert count(metrics.signals_late, "encoder") == 30 - sum(embedded)
    assert slow.most == threads


def test_a_very_long_chat_does_not_wait_in_the_queue_of_others(metrics: Metrics) -> None:
    reader, bundle = Reader(metrics, Pipeline(), threads=1), naming(MAIL)
    freed = threading.Event()

    async def scenario() -> dict[str, Any]:
        reader._threads.submit(freed.wait, 60)
        try:
            asked = reader.read(bundle, said(TEXT + " word" * 60_000), {})
            return dict(await asyncio.wait_for(asked, 30))
        finally:
            freed.set()

    found = asyncio.run(scenario())
    reader.close()
    assert found["personal.email"] is True


def test_a_burst_on_an_edge_with_models_is_answered_and_what_was_late_is_counted(
    tmp_path: Path, models: Path
) -> None:
    """A hundred passes take far longer than the 30 ms after which none is begun."""

    async def scenario() -> None:
        async with Ready(tmp_path, models=models, encoder_budget_s=0.03, read_threads=1) as at:
            at.plane.publish(naming(EMBEDDING, serial=2))
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == 2)
            asks = ({"policy": "chat", "input": f"{TEXT} {i}"} for i in range(100))
            answers = await asyncio.gather(*(at.client.post("/v1/decide", ask) for ask in asks))
            assert {status for status, _ in answers} == {200}
            await eventually(lambda: len(at.plane.decisions) >= 100)
            contexts = [row["context"] for row in at.plane.decisions]
            assert all(set(context) >= FIRST_TIER for context in contexts)
            late = sum("embedding" not in context for context in contexts)
            assert late > 0
            shown = (await at.client.get("/metrics"))[1]
            assert f'pointsman_edge_signals_late_total{{tier="encoder"}} {late:.1f}' in shown

    run(scenario())


def reading() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("signals")}


@pytest.mark.parametrize(
    "more",
    [
        [{"role": "tool", "content": TEXT * (AT_ONCE_CHARS // 10)}],
        [{"role": "tool", "content": ""}] * 2_000,
    ],
    ids=["a tool's long result", "thousands of messages"],
)
def test_other_requests_do_not_wait_for_what_tools_brought(
    metrics: Metrics, more: list[object]
) -> None:
    async def scenario() -> None:
        reader, said, before = Reader(metrics), [{"role": "user", "content": TEXT}], reading()
        assert (await reader.read(naming(MAIL), said, {}))["personal.email"] is True
        assert not reading() - before
        assert (await reader.read(naming(MAIL), [*more, *said], {}))["personal.email"] is True
        assert len(reading() - before) == 1
        reader.close()

    asyncio.run(scenario())


def test_an_edge_that_stops_leaves_no_thread_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = reading()
        async with Ready(tmp_path) as at:
            at.plane.publish(naming(MAIL, serial=2))
            await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == 2)
            ask = {"policy": "chat", "input": TEXT * (AT_ONCE_CHARS // 10)}
            assert (await at.client.post("/v1/decide", ask))[0] == 200
            assert len(reading() - before) == 1
        assert not reading() - before

    run(scenario())


def test_an_edge_does_not_start_where_the_required_provider_is_not_there(
    tmp_path: Path, models: Path, missing: list[str]
) -> None:
    if "migraphx" not in missing:
        pytest.skip("this machine has MIGraphX")
    options = ("--models", str(models), "--require-provider", "migraphx")
    done = start_in_vain(NOWHERE, tmp_path, *options)
    assert done.returncode == 1
    errors = done.stderr.decode()
    assert "POINTSMAN_EDGE_REQUIRE_PROVIDER=migraphx: " in errors
    assert "install onnxruntime-migraphx instead of onnxruntime" in errors


def test_an_edge_does_not_start_where_a_provider_is_required_for_no_models(tmp_path: Path) -> None:
    done = start_in_vain(NOWHERE, tmp_path, "--require-provider", "cpu")
    assert done.returncode == 1
    errors = done.stderr.decode()
    assert "POINTSMAN_EDGE_REQUIRE_PROVIDER=cpu is set, and without" in errors
    assert "`pointsman models fetch` fills, or unset" in errors


@pytest.mark.parametrize("name", ["require_provider", "providers"])
def test_a_provider_that_is_unknown_is_named_by_its_setting(
    tmp_path: Path, models: Path, name: str
) -> None:
    given = settings(NOWHERE, tmp_path, models=models, **{name: "abacus"})
    with pytest.raises(SignalsError, match=rf"_{name.upper()}=abacus: .* give one of migraphx,"):
        open_reader(given, Metrics())


def test_each_provider_that_is_passed_over_is_counted_and_logged(
    tmp_path: Path, models: Path, missing: list[str], metrics: Metrics
) -> None:
    order = (*missing, "cpu")
    with structlog.testing.capture_logs() as logs:
        open_reader(settings(NOWHERE, tmp_path, models=models, providers=order), metrics)
    passed = [row for row in logs if row["event"] == "provider.passed_over"]
    assert [row["provider"] for row in passed] == missing
    assert all("this ONNX Runtime has no" in row["reason"] for row in passed)
    assert [count(metrics.provider_fallbacks, one) for one in order] == [1] * len(missing) + [0]
    assert [row["provider"] for row in logs if row["event"] == "models.open"] == ["cpu"]
