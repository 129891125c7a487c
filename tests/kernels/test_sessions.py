from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.graphs.builder import Variant, build
from kernels.graphs.oracle import encode
from kernels.providers import Proven, choose
from kernels.sessions import MAX_BATCH_TOKENS, EncoderSession, SessionError
from tests.kernels.encoders import TINY, spread, texts

WEIGHTS = spread(TINY, seed=1)
CLOSE = 1e-4


class Watched:
    """A real session that notes the shapes it is run with."""

    def __init__(self, proven: Proven) -> None:
        self._session = proven.session
        self.shapes: list[tuple[int, int]] = []
        self.shown: list[int] = []

    def run(self, names, feed):
        self.shapes.append(feed["input_ids"].shape)
        self.shown.append(int(feed.get("attention_mask", np.ones_like(feed["input_ids"])).sum()))
        return self._session.run(names, feed)

    def __getattr__(self, name):
        return getattr(self._session, name)


def serve(
    variant: Variant = "plain", provider: str = "cpu", **choices: Any
) -> tuple[EncoderSession, Watched]:
    """A session on the CPU, which may take itself for another provider: shapes are what counts."""
    proven = choose(build(WEIGHTS, TINY, variant), wanted=["cpu"])
    watched = Watched(proven)
    shaped = replace(proven, session=watched, provider=provider)
    options = {"most_tokens": 96, "buckets": (16, 32, 64), **choices}
    return EncoderSession(shaped, **options), watched


def wanted(rows: list[list[int]]) -> NDArray[np.float64]:
    return np.concatenate([encode(WEIGHTS, TINY, np.array([row]))[0] for row in rows])


@pytest.mark.parametrize(
    ("variant", "provider"),
    [("plain", "cpu"), ("flash", "cpu"), ("fused", "cpu"), ("plain", "migraphx")],
)
def test_texts_of_all_lengths_come_back_in_their_order(variant: Variant, provider: str):
    session, _ = serve(variant, provider)
    rows = texts(TINY, [40, 3, 17, 3, 96, 33, 1, 16, 17, 90], seed=2)
    assert np.abs(session.encode(rows) - wanted(rows)).max() < CLOSE


SESSIONS = {
    ("plain", "cpu"): serve(),
    ("flash", "cpu"): serve("flash"),
    ("fused", "cpu"): serve("fused"),
    ("plain", "migraphx"): serve(provider="migraphx"),
}


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(SESSIONS)),
    lengths=st.lists(st.integers(1, 96), min_size=1, max_size=24),
)
def test_each_text_is_encoded_as_if_alone(kind: tuple[str, str], lengths: list[int]):
    session, _ = SESSIONS[kind]
    rows = texts(TINY, lengths, seed=len(lengths))
    alone = np.concatenate([session.encode([row]) for row in rows])
    assert np.abs(session.encode(rows) - alone).max() < CLOSE


def test_on_the_cpu_a_text_runs_at_its_own_length():
    session, watched = serve()
    session.encode(texts(TINY, [37], seed=3))
    assert watched.shapes == [(1, 37)]


def test_texts_share_a_batch_only_when_little_of_it_is_padding():
    session, watched = serve()
    session.encode(texts(TINY, [10, 80, 10, 11, 79, 40], seed=4))
    assert sorted(watched.shapes) == [(1, 40), (2, 80), (3, 11)]
    for (count, length), shown in zip(watched.shapes, watched.shown, strict=True):
        assert shown >= 0.875 * count * length


def test_a_batch_is_bounded():
    session, watched = serve()
    session.encode(texts(TINY, [64] * 200, seed=5))
    assert sum(count for count, _ in watched.shapes) == 200
    assert max(count * length for count, length in watched.shapes) <= MAX_BATCH_TOKENS


def test_a_graph_without_a_mask_gets_batches_of_one_length():
    session, watched = serve("flash")
    session.encode(texts(TINY, [10, 11, 10, 11, 10], seed=6))
    assert sorted(watched.shapes) == [(2, 11), (3, 10)]


def test_a_provider_that_compiles_meets_only_the_shapes_that_were_warmed():
    session, watched = serve(provider="migraphx", batch=4)
    warmed = {(one.texts, one.tokens) for one in session.warm_up()}
    assert warmed == {(count, length) for count in (1, 4) for length in (16, 32, 64, 96)}
    rng = np.random.default_rng(7)
    for count in (1, 2, 5, 9):
        session.encode(texts(TINY, rng.integers(1, 120, count).tolist(), seed=count))
    assert set(watched.shapes) <= warmed


def test_warm_up_runs_each_bucket_once_where_shapes_are_free():
    session, watched = serve()
    warmed = session.warm_up()
    assert watched.shapes == [(1, 16), (1, 32), (1, 64), (1, 96)]
    assert all(one.seconds > 0 for one in warmed)


def test_buckets_end_where_texts_do():
    session, _ = serve(most_tokens=32)
    assert [one.tokens for one in session.warm_up()] == [16, 32]


def test_a_long_text_is_cut_and_keeps_its_end_mark():
    session, watched = serve(most_tokens=50)
    row = texts(TINY, [90], seed=8)[0]
    found = session.encode([row])
    assert watched.shapes == [(1, 50)]
    assert np.abs(found - wanted([[*row[:49], row[-1]]])).max() < CLOSE


@pytest.mark.parametrize("rows", [[], [[]], [[1, 2], []]])
def test_nothing_to_encode_is_refused(rows: list[list[int]]):
    session, _ = serve()
    with pytest.raises(SessionError, match=r"give 1 to|has no tokens"):
        session.encode(rows)


def test_too_many_texts_are_refused():
    session, _ = serve()
    with pytest.raises(SessionError, match="65537 texts: give 1 to 65536"):
        session.encode([[1]] * 65_537)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"most_tokens": 1}, "most_tokens is 1: give 2 or more"),
        ({"most_tokens": 97}, "most_tokens is 97: the model has 96 positions"),
        ({"batch": 0}, "batch is 0: give 1 to 256"),
        ({"buckets": (64, 32)}, r"buckets are \[64, 32\]: give rising lengths"),
        ({"buckets": ()}, "give rising lengths"),
    ],
)
def test_a_session_out_of_range_is_refused(choices: dict[str, Any], message: str):
    with pytest.raises(SessionError, match=message):
        serve(**choices)


def test_a_provider_that_pads_refuses_a_graph_without_a_mask():
    with pytest.raises(SessionError, match="migraphx needs padding: build a graph with a mask"):
        serve("flash", "migraphx")
