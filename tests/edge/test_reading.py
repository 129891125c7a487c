"""Contexts without models: what costs something is read only where a bundle names it."""

import asyncio
from typing import Any

import pytest

from edge.metrics import Metrics
from edge.reading import AT_ONCE_CHARS, FIRST_TIER, Reader
from kernels.signals.text import SIGNAL_SCHEMA, read
from learners.bundle import Bundle
from learners.lineup import Challenger, Lineup
from tests.edge.doubles import make_bundle, replaced
from tests.edge.naming import LANGUAGE, MAIL, naming

TEXT = "Schreib bitte an ann.lee@example.org, wo der nächste Bahnhof ist."


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
