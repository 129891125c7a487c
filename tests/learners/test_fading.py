import numpy as np
import pytest

from learners.fading import fade


def test_a_row_fades_by_the_weight_that_follows_it():
    weight = np.array([1.0, 0.0, 2.0, 3.0])
    rows, kept = fade(weight, half_life=5.0)
    assert rows == pytest.approx([2.0**-1, 0.0, 2.0 * 2.0 ** (-3 / 5), 3.0])
    assert kept == pytest.approx(2.0 ** (-6 / 5))


def test_without_a_half_life_nothing_fades():
    weight = np.array([1.0, 2.0])
    rows, kept = fade(weight, half_life=0.0)
    assert np.array_equal(rows, weight)
    assert kept == 1.0


def test_an_empty_batch_leaves_all_as_it_was():
    rows, kept = fade(np.zeros(0), half_life=3.0)
    assert len(rows) == 0
    assert kept == 1.0


def test_fading_in_pieces_is_fading_at_once():
    weight = np.random.default_rng(0).random(40)
    whole, kept = fade(weight, half_life=7.0)
    first, before = fade(weight[:15], half_life=7.0)
    second, after = fade(weight[15:], half_life=7.0)
    assert np.allclose(np.concatenate([first * after, second]), whole)
    assert before * after == pytest.approx(kept)
