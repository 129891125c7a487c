"""The oracle is held to plain loops, written down from the definition."""

import math

import numpy as np
import pytest

from kernels.attention import reference


def draw(*shape: int):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape) for _ in range(3)]


def by_hand(query, key, value, length, window):
    """One head, one query and one key at a time."""
    out = np.zeros_like(query)
    for i in range(length):
        seen = [j for j in range(length) if window is None or abs(i - j) <= window]
        weights = [math.exp(query[i] @ key[j] / math.sqrt(query.shape[1])) for j in seen]
        total = sum(weights)
        for j, weight in zip(seen, weights, strict=True):
            out[i] += weight / total * value[j]
    return out


@pytest.mark.parametrize("window", [None, 0, 2, 50])
@pytest.mark.parametrize("length", [0, 1, 5, 7])
def test_the_oracle_is_the_definition_taken_at_its_word(length: int, window: int | None):
    query, key, value = draw(2, 3, 7, 4)
    found = reference.attend(query, key, value, lengths=np.array([7, length]), window=window)
    for batch, real in enumerate((7, length)):
        for head in range(3):
            q, k, v = (part[batch, head] for part in (query, key, value))
            wanted = by_hand(q, k, v, real, window)
            assert found[batch, head] == pytest.approx(wanted, abs=1e-12)


def test_padding_may_hold_anything():
    query, key, value = draw(1, 1, 6, 4)
    clean = reference.attend(query, key, value, lengths=np.array([4]))
    for part in (query, key, value):
        part[:, :, 4:] = np.nan
    assert np.array_equal(reference.attend(query, key, value, lengths=np.array([4])), clean)


def test_a_window_of_nothing_returns_the_values():
    query, key, value = draw(1, 2, 6, 4)
    assert reference.attend(query, key, value, window=0) == pytest.approx(value)


def test_huge_scores_do_not_overflow():
    query, key, value = draw(1, 1, 6, 4)
    assert np.isfinite(reference.attend(query * 1e6, key, value)).all()


@pytest.mark.parametrize(
    ("lengths", "window", "said"),
    [
        (np.array([7]), None, r"each must be 0…6"),
        (np.array([-1]), None, r"each must be 0…6"),
        (np.array([1, 2]), None, r"shape \(1,\)"),
        (np.array([1.0]), None, r"integers"),
        (None, -1, r"window is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(lengths, window, said: str):
    with pytest.raises(ValueError, match=said):
        reference.attend(*draw(1, 1, 6, 4), lengths=lengths, window=window)


def test_shapes_that_differ_are_refused():
    query, key, value = draw(1, 1, 6, 4)
    with pytest.raises(ValueError, match=r"give all three \(B, H, T, D\)"):
        reference.attend(query, key[:, :, :5], value)
