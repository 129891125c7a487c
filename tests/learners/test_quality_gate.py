from dataclasses import fields, replace

import numpy as np
import pytest

from learners.errors import SpecError
from learners.quality_gate import QualityGate


@pytest.fixture(name="log")
def _log(log_of):
    """Rows whose weight, source and propensity are each known."""
    return replace(
        log_of(6, 3),
        weight=np.array([1.0, 0.1, 0.5, 2.0, 1.0, 1.0]),
        source=np.array([0, 0, -1, -1, 4, 4]),
        propensity=np.array([0.5, 0.5, 0.5, 0.5, 0.001, 0.01]),
        reward=np.array([0.0, 1.0, 0.5, 1.0, 0.45, 0.6]),
    )


def test_a_gate_that_asks_nothing_changes_nothing(log):
    assert np.array_equal(QualityGate().passed(log).weight, log.weight)


@pytest.mark.parametrize(
    ("gate", "weight"),
    [
        (QualityGate(min_weight=0.5), [1.0, 0.0, 0.5, 2.0, 1.0, 1.0]),
        (QualityGate(unsourced=0.5), [1.0, 0.1, 0.25, 1.0, 1.0, 1.0]),
        (QualityGate(min_propensity=0.01), [1.0, 0.1, 0.5, 2.0, 0.0, 1.0]),
        (QualityGate(low=0.4, high=0.6, undecided=0.0), [1.0, 0.1, 0.0, 2.0, 0.0, 1.0]),
        (
            QualityGate(min_weight=0.5, unsourced=0.5, low=0.4, high=0.7, undecided=0.1),
            [1.0, 0.0, 0.025, 1.0, 0.1, 0.1],
        ),
    ],
)
def test_the_gate_sets_each_rows_weight(log, gate, weight):
    assert gate.passed(log).weight == pytest.approx(weight)


def test_the_gate_leaves_all_but_the_weights_and_the_log_that_it_is_given(log):
    before = log.weight.copy()
    passed = QualityGate(unsourced=0.0, min_propensity=0.1).passed(log)
    assert np.array_equal(log.weight, before)
    for field in fields(log):
        if field.name not in {"arms", "weight"}:
            assert np.array_equal(getattr(passed, field.name), getattr(log, field.name))


@pytest.mark.parametrize(
    "numbers",
    [
        {"unsourced": 1.5},
        {"undecided": -0.1},
        {"min_propensity": float("nan")},
        {"min_weight": -1.0},
        {"min_weight": float("inf")},
        {"low": 1.0, "high": 0.0},
        {"low": 0.0, "high": float("nan")},
        {"undecided": 0.5},
    ],
)
def test_a_gate_that_contradicts_itself_is_refused(numbers):
    with pytest.raises(SpecError, match="give"):
        QualityGate(**numbers)
