import numpy as np
import pytest

from learners.cards import columns
from learners.records import Card

POOL = (
    Card(1.0, 2.0, 8_000, ("maths",), ("tools",)),
    Card(5.0, 20.0, 128_000, ("maths", "code"), ()),
    Card(0.1, 0.2, None, (), ("tools", "vision")),
)


def test_columns_are_standardised_over_the_pool_and_of_length_1_on_average():
    found = columns(POOL, POOL)
    assert found.mean(axis=0) == pytest.approx(0.0)
    assert np.square(found).sum(axis=1).mean() == pytest.approx(1.0)
    spread = np.sqrt(np.square(found).mean(axis=0))
    # All but energies, which no card tells, and the length, of which one is as usual, vary alike.
    assert np.ptp(spread[[0, 1, 5, 6, 7, 8]]) == pytest.approx(0.0, abs=1e-12)
    assert spread[[3, 4]] == pytest.approx(0.0)


def test_cards_that_are_alike_tell_nothing():
    assert not columns([Card(1.0, 1.0, 10, ("a",))] * 3, [Card(1.0, 1.0, 10, ("a",))] * 3).any()
    assert not columns(POOL, POOL[:1]).any()


def test_what_a_card_leaves_out_is_as_usual_in_the_pool():
    found = columns(POOL, POOL)
    assert found[2, 2] == 0.0
    assert found[0, 2] == pytest.approx(-found[1, 2])


def test_prices_count_by_their_logarithm():
    prices = [0.0, 1.0, 3.0, 7.0]
    found = columns([Card(price) for price in prices], [Card(price) for price in prices])[:, 0]
    assert np.diff(found) == pytest.approx(found[1] - found[0])


def test_a_tag_that_no_card_of_the_pool_has_is_not_told():
    first = columns([Card(1.0, 2.0, 8_000, ("maths",), ("tools",))], POOL)
    second = columns([Card(1.0, 2.0, 8_000, ("maths", "law"), ("tools",))], POOL)
    assert np.array_equal(first, second)
