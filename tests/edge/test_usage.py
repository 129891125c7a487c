import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.usage import MAX_EVENT_BYTES, Meter, count_chars
from learners.records import Card
from tests.edge.doubles import stream_events

CARD = Card(usd_per_mtok_in=1.0, usd_per_mtok_out=2.0)


@given(st.lists(st.integers(0, 1200), max_size=30), st.booleans(), st.booleans())
def test_a_stream_is_read_the_same_however_the_network_cuts_it(cuts, usage, crlf):
    data = b"".join(stream_events(usage=usage))
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    meter, edges = Meter(0.0), sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, end in pairwise(edges):
        meter.feed(data[start:end], 0.5)
    values = meter.values(2.0, CARD, input_chars=10)
    tokens = (7, 5) if usage else (3, 3)
    assert values == {
        "latency_s": 2.0,
        "ttft_s": 0.5,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "cost_usd": pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6),
    }
    assert meter.response_id == "chatcmpl-2"
    assert meter.estimated is not usage


@pytest.mark.parametrize(
    ("card", "joules"),
    [
        (Card(joules_per_token_in=0.1, joules_per_token_out=0.4), 0.7 + 2.0),
        (Card(joules_per_token_out=0.4), 2.0),
        (Card(joules_per_token_in=0.0), 0.0),
        (Card(joules_per_token_out=1e308), None),
        (Card(), None),
    ],
)
def test_the_energy_is_that_of_the_tokens_by_the_arms_card(card, joules):
    meter = Meter(0.0)
    meter.feed(b"".join(stream_events(usage=True)), 0.5)
    found = meter.values(2.0, card, 10).get("energy_j")
    assert found == (None if joules is None else pytest.approx(joules))


def test_the_first_token_is_the_first_text_and_not_the_role():
    meter = Meter(0.0)
    for now, event in enumerate(stream_events(usage=False), start=1):
        meter.feed(event, float(now))
    assert meter.values(9.0, CARD, 0)["ttft_s"] == 2.0


@pytest.mark.parametrize("delta", [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "Hm"}])
def test_calls_of_tools_and_reasoning_are_output_too(delta):
    meter = Meter(0.0)
    meter.feed(b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode(), 1.0)
    assert meter.values(2.0, CARD, 4)["output_tokens"] == 1


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"usage": {"prompt_tokens": "many"}}', b"\xff", b"[1]", b'{"id": 3}']
)
def test_a_body_of_another_form_leaves_the_tokens_unknown(body):
    meter = Meter(1.0)
    meter.read_whole(body)
    assert meter.values(3.0, CARD, 100) == {"latency_s": 2.0}


def test_more_tokens_than_a_number_holds_are_unknown():
    meter = Meter(0.0)
    meter.read_whole(b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}' % (2**53 + 1))
    assert meter.values(1.0, CARD, 1) == {"latency_s": 1.0}
    meter.read_whole(b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}' % 2**53)
    values = meter.values(1.0, Card(1e308, 1e308), 1)
    assert values["input_tokens"] == 2**53
    assert "cost_usd" not in values


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b'{"error": {"message": "no"}}', 200, 1),
        (b'{"error": "no"}', 200, 1),
        (b'{"error": null, "choices": []}', 200, 0),
        (b"{}", 200, 0),
        (b"{}", 400, 1),
    ],
)
def test_an_answer_is_an_error_by_its_status_or_by_what_it_says(body, status, error):
    meter = Meter(0.0)
    meter.feed(b"data: %b\n\n" % body, 1.0)
    meter.end(status)
    assert meter.error == error


def test_an_event_without_end_is_given_up_and_not_kept():
    meter = Meter(0.0)
    for _ in range(3):
        meter.feed(b"data: " + b"x" * MAX_EVENT_BYTES, 1.0)
    assert len(meter._rest) <= MAX_EVENT_BYTES
    meter.feed(b"\n\n" + stream_events(usage=True)[-2], 1.0)
    assert "output_tokens" not in meter.values(2.0, CARD, 0)


def test_only_the_text_of_messages_is_counted():
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5000}}
    messages = [
        {"role": "system", "content": "1234"},
        {"role": "user", "content": [{"type": "text", "text": "567"}, picture, "odd"]},
        {"role": "assistant", "content": None},
        "odd",
    ]
    assert count_chars(messages) == 7
