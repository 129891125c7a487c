from dataclasses import replace

import numpy as np
import pytest

from learners import probes
from learners.interactions import Interactions, joined

ARMS = ("a", "b", "c")


def asked(order, context=0.0, *, weight=1.0) -> Interactions:
    """One request put to these arms, one after the other."""
    n = len(order)
    return Interactions(
        arms=ARMS,
        x=np.tile([1.0, context], (n, 1)),
        eligible=np.ones((n, len(ARMS)), dtype=np.bool_),
        action=np.array(order, dtype=np.int64),
        propensity=np.ones(n),
        reward=np.array(order, dtype=np.float64),
        weight=np.full(n, weight),
    )


def test_a_whole_probe_is_found_by_arm_in_whatever_order_it_was_asked():
    log = joined([asked([2, 0, 1]), asked([0, 1, 2], 1.0)])
    found = probes.find(log)
    assert found.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert (log.action[found] == np.arange(3)).all()


def test_what_was_served_in_between_is_no_part_of_a_probe():
    served = replace(asked([1], 5.0), propensity=np.array([0.3]))
    log = joined([served, asked([0, 1, 2]), served, served, asked([1, 2, 0], 2.0)])
    assert probes.find(log).tolist() == [[1, 2, 3], [8, 6, 7]]


@pytest.mark.parametrize("order", [[0, 1], [0], [0, 1, 1], [0, 0, 1, 1]])
def test_an_incomplete_probe_is_none(order):
    log = joined([asked(order), asked([2, 1, 0], 1.0)])
    assert probes.find(log).tolist() == [[len(order) + 2, len(order) + 1, len(order)]]


def test_the_rest_of_a_cut_probe_does_not_hide_the_next_one_of_equal_context():
    log = joined([asked([0]), asked([0, 1, 2]), asked([2, 1, 0])])
    assert probes.find(log).tolist() == [[1, 2, 3], [6, 5, 4]]


def test_two_requests_of_equal_context_are_two_probes():
    log = joined([asked([0, 1, 2]), asked([0, 1, 2])])
    assert probes.find(log).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_rows_of_other_weights_are_not_one_probe():
    log = joined([asked([0, 1]), asked([2], weight=2.0)])
    assert not len(probes.find(log))
    assert len(probes.find(joined([asked([0, 1, 2], weight=2.0)]))) == 1
    assert not len(probes.find(asked([0, 1, 2], weight=0.0)))


@pytest.mark.parametrize("column", ["x", "propensity", "eligible"])
def test_one_row_that_does_not_fit_breaks_the_probe(column):
    log = asked([0, 1, 2])
    changed = getattr(log, column).copy()
    if column == "eligible":
        changed[1, 2] = False
    elif column == "x":
        changed[1, 1] = 0.5
    else:
        changed[1] = 0.99
    assert not len(probes.find(replace(log, **{column: changed})))


def test_one_arm_alone_is_never_a_probe_nor_are_fewer_rows_than_arms():
    alone = Interactions(
        arms=("a",),
        x=np.ones((4, 1)),
        eligible=np.ones((4, 1), dtype=np.bool_),
        action=np.zeros(4, dtype=np.int64),
        propensity=np.ones(4),
        reward=np.zeros(4),
        weight=np.ones(4),
    )
    assert probes.find(alone).shape == (0, 1)
    assert probes.find(asked([0, 1])).shape == (0, 3)
    assert probes.find(asked([])).shape == (0, 3)
