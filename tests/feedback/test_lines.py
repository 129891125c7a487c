import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import InvalidEventError
from feedback.lines import (
    AHEAD,
    MAX_ARMS,
    MAX_FEATURE_TEXT,
    MAX_FEATURES,
    MAX_LINE_BYTES,
    MAX_TEXT,
    read_decision,
    read_id,
    read_outcome,
)
from learners.ids import uuid7
from tests.ground import T0, decision, decision_line, new_id, outcome_line

GOOD = new_id()
YEAR_9999_ID = uuid7(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), bytes(10))
LAST_ID = UUID(int=(2**48 - 1) << 80 | 7 << 76 | 2 << 62)


def refusal(line: bytes) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as refused:
        read_decision(line, T0)
    return refused.value


def test_a_valid_line_is_read_as_it_was_sent():
    found, row = read_decision(decision_line(GOOD), T0)
    assert found == GOOD
    assert row.at == T0
    assert row.context == decision(GOOD)["context"]
    assert isinstance(row.context["tokens"], int), "a category's 12 must not become 12.0"


def test_a_shadows_line_names_the_decision_that_served():
    assert refusal(decision_line(GOOD, mode="shadow")).field == "retry_of"
    read_decision(decision_line(GOOD, mode="shadow", retry_of=str(new_id())), T0)


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("decision_id", "nonsense", "give a UUIDv7"),
        ("decision_id", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "give a UUIDv7"),
        ("decision_id", 5, "give a UUIDv7"),
        ("decision_id", str(YEAR_9999_ID), "set the sender's clock"),
        ("decision_id", str(LAST_ID), "past the year 9999"),
        ("retry_of", "nonsense", "give a UUIDv7"),
        ("retry_of", "", "give a UUIDv7"),
        ("policy", None, "give a text of at most 256"),
        ("policy", "x" * (MAX_TEXT + 1), "give a text of at most 256"),
        ("digest", "a\x00b", "without NUL"),
        ("version", -1, "give a whole number"),
        ("version", 2**63, "give a whole number"),
        ("serial", 1.5, "give a whole number"),
        ("serial", 10**400, "give a whole number"),
        ("at", "2026-03-01T12:00:00", "with its zone"),
        ("at", "yesterday", "RFC 3339"),
        ("at", 1767225600, "RFC 3339"),
        ("at", "9999-12-31T23:59:59-05:00", "set the sender's clock"),
        ("at", "0001-01-01T00:00:00+05:00", "set the sender's clock"),
        ("at", (T0 + AHEAD + timedelta(seconds=1)).isoformat(), "set the sender's clock"),
        ("eligible", [], "give 1 to"),
        ("eligible", ["large"] * 2, "give each arm once"),
        ("eligible", [f"arm-{i}" for i in range(MAX_ARMS + 1)], "give 1 to"),
        ("eligible", ["small", "large\x00"], "without NUL"),
        ("distribution", [0.25], "one for each"),
        ("distribution", [0.5, 0.75], "sum to 1"),
        ("distribution", [-0.25, 1.25], "from 0 to 1"),
        ("distribution", ["0.25", 0.75], "from 0 to 1"),
        ("action", "medium", "give one of ['small', 'large']"),
        ("propensity", 0.5, "log the served probability"),
        ("propensity", 0.75001, "log the served probability"),
        ("propensity", "high", "the served probability"),
        ("mode", "guess", "policy, fallback, retry or shadow"),
        ("session_id", 7, "give a text"),
        ("episode_id", "x" * 257, "give a text"),
        ("edge_id", "a\x00", "without NUL"),
        ("context", [], "at most 512 features"),
        ("context", {str(i): 1 for i in range(MAX_FEATURES + 1)}, "at most 512 features"),
    ],
)
def test_a_bad_field_is_refused_with_its_name_its_value_and_a_remedy(
    field: str, value: Any, remedy: str
):
    error = refusal(decision_line(GOOD, **{field: value}))
    assert error.field == field
    assert field in str(error)
    assert remedy in str(error)
    shown = {"distribution", "eligible", "context"}  # too long to show, or shown as what is wrong
    assert field in shown or shown_in(value, str(error))


def shown_in(value: Any, message: str) -> bool:
    return str(value)[:10] in message or repr(value)[:60] in message


@pytest.mark.parametrize("field", [k for k in decision(GOOD) if k != "context"])
def test_a_field_of_another_kind_is_refused(field: str):
    error = refusal(decision_line(GOOD, **{field: {"nested": 1}}))
    assert error.field == field
    assert "{'nested': 1}" in str(error)


@pytest.mark.parametrize("field", ["decision_id", "policy", "eligible", "propensity", "at"])
def test_a_missing_field_is_named(field: str):
    row = decision(GOOD)
    del row[field]
    error = refusal(json.dumps(row).encode())
    assert error.field == field
    assert str(error).startswith(f"{field} is missing: give ")


@pytest.mark.parametrize(
    "value", [None, {"deep": 1}, "x" * (MAX_FEATURE_TEXT + 1), "a\x00b", ["a"], 2**63, 10**400]
)
def test_a_bad_feature_is_named(value: Any):
    error = refusal(decision_line(GOOD, context={"fine": 1, "odd": value}))
    assert error.field.startswith("context")
    assert "context.odd is " in str(error)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ['"propensity": 0.75', '"tokens": 12', "[0.25, 0.75]"])
def test_numbers_that_are_not_finite_are_refused(number: str, place: str):
    line = decision_line(GOOD).decode()
    assert place in line
    head, _, tail = place.rpartition(" ")
    spoiled = line.replace(place, f"{head} {number}{']' * tail.endswith(']')}")
    refusal(spoiled.encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"decision_id": "\xff"}',
        b'{"\xc3\x28": 1}',
        b'{"decision_id": "\\ud800"}',
        b'{"context": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"extra": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"version": ' + b"9" * 5_000 + b"}",
        b" " * (MAX_LINE_BYTES + 1),
    ],
)
def test_a_line_that_is_no_json_object_is_refused_and_nothing_worse_happens(line: bytes):
    assert str(refusal(line))
    with pytest.raises(InvalidEventError):
        read_outcome(line, T0)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_get_refused(line: bytes):
    with pytest.raises(InvalidEventError):
        read_decision(line, T0)


@given(
    st.sampled_from(sorted(decision(GOOD))),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda held: st.lists(held, max_size=3) | st.dictionaries(st.text(), held, max_size=3),
        max_leaves=5,
    ),
)
def test_any_value_in_any_field_is_either_taken_or_refused(field: str, value: Any):
    try:
        read_decision(decision_line(GOOD, **{field: value}), T0)
    except InvalidEventError as error:
        assert str(error)  # noqa: PT017 -- both ways are right, anything else is not


def test_an_id_may_run_an_hour_ahead_of_our_clock_and_no_more():
    ahead = new_id(T0 + AHEAD)
    assert read_id("decision_id", str(ahead), T0) == ahead
    with pytest.raises(InvalidEventError, match="ahead of ours"):
        read_id("decision_id", str(new_id(T0 + AHEAD + timedelta(seconds=1))), T0)


def test_a_propensity_that_differs_in_the_last_digits_only_is_taken():
    _, row = read_decision(decision_line(GOOD, propensity=0.75 + 1e-9), T0)
    assert row.propensity == 0.75 + 1e-9


def test_a_valid_outcome_is_read_as_it_was_sent():
    found, row = read_outcome(outcome_line(GOOD, response_id="resp-1"), T0)
    assert (found, row.response_id) == (GOOD, "resp-1")
    assert row.values == {"latency_s": 0.5, "cost_usd": 0.001}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"decision_id": "x"}, "decision_id", "give a UUIDv7"),
        ({"at": "2026-03-01T12:00:00"}, "at", "with its zone"),
        ({"at": "9999-12-31T23:59:59-05:00"}, "at", "set the sender's clock"),
        ({"values": {"mood": 1}}, "values", "values.mood"),
        ({"values": {"latency_s": -1}}, "values", "values.latency_s is -1: give numbers of at"),
        ({"values": {"cost_usd": "cheap"}}, "values", "values.cost_usd is 'cheap'"),
        ({"values": {"cost_usd": 10**400}}, "values", "values.cost_usd is 1000"),
        ({"values": []}, "values", "values is []"),
        ({"response_id": "a\x00b"}, "response_id", "without NUL"),
        ({"response_id": "x" * 257}, "response_id", "give a text"),
    ],
)
def test_a_bad_outcome_is_refused_with_its_field(fields: dict[str, Any], field: str, message: str):
    with pytest.raises(InvalidEventError) as refused:
        read_outcome(outcome_line(GOOD, **fields), T0)
    assert refused.value.field == field
    assert message in str(refused.value)
