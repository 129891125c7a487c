import numpy as np
import pytest
from river import drift as of_river

from learners import drift
from learners.errors import SpecError

BOTH = [kind for kind in drift.KINDS if kind != "none"]
STREAMS = 40


def watched(kind, residuals) -> list[int]:
    """The rows of the alarms of one arm."""
    detector = drift.resumed(kind, drift.start(kind, 1)[0])
    assert detector is not None
    return [i for i, value in enumerate(residuals.tolist()) if detector.update(value)]


def test_page_hinkley_gives_its_alarms_at_the_rows_where_rivers_does():
    random = np.random.default_rng(0)
    jumps = np.repeat([0.0, 1.5, -1.0, 1.0, 3.0, 0.0], 600)
    residuals = random.normal(size=len(jumps)) + jumps
    own = drift.PageHinkley
    river = of_river.PageHinkley(own.FEWEST, own.SLACK, own.THRESHOLD, own.FADING)
    expected = []
    for i, value in enumerate(residuals.tolist()):
        river.update(value)
        if river.drift_detected:
            expected.append(i)
    assert len(expected) >= 5
    assert watched("page_hinkley", residuals) == expected


@pytest.mark.parametrize("kind", BOTH)
def test_a_jump_of_one_deviation_is_found_within_200_interactions(kind):
    late = 0
    for seed in range(STREAMS):
        random = np.random.default_rng(seed)
        residuals = random.normal(size=900)
        residuals[700:] += 1.0
        late += not [row for row in watched(kind, residuals) if row >= 700]
    assert late <= STREAMS // 20


@pytest.mark.parametrize("kind", BOTH)
def test_without_a_change_at_most_one_stream_of_twenty_gives_an_alarm(kind):
    # 40 streams of 5,000 residuals; measured on 100 of 10,000: 10 and 0.
    false = sum(
        bool(watched(kind, np.random.default_rng(seed).normal(size=5_000)))
        for seed in range(STREAMS)
    )
    assert false <= STREAMS // 20


@pytest.mark.parametrize("kind", BOTH)
def test_a_batch_cut_anywhere_gives_the_same_alarms(kind):
    random = np.random.default_rng(4)
    arm = random.integers(3, size=6_000)
    residual = random.normal(size=6_000) + np.where((arm == 1) & (np.arange(6_000) > 3_000), 2, 0)
    whole, last = drift.alarms(kind, drift.start(kind, 3), arm, residual)
    numbers = drift.start(kind, 3)
    found = []
    for start, stop in ((0, 1), (1, 2_500), (2_500, 6_000)):
        numbers, rows = drift.alarms(kind, numbers, arm[start:stop], residual[start:stop])
        found.append(np.where(rows >= 0, rows + start, -1))
    assert np.array_equal(numbers, whole)
    assert np.array_equal(np.max(found, axis=0), last)
    assert last[1] > 3_000
    assert last[0] == last[2] == -1


def test_a_state_is_bounded():
    residual = np.random.default_rng(0).normal(size=3 * drift.WINDOW)
    arm = np.zeros(len(residual), dtype=np.int64)
    numbers, _ = drift.alarms("adwin", drift.start("adwin", 1), arm, residual)
    assert numbers.shape == (1, 1 + drift.WINDOW)
    assert numbers[0, 0] < drift.WINDOW


def test_nothing_is_watched_where_none_is_asked_for():
    numbers, last = drift.alarms("none", drift.start("none", 2), np.array([0, 1]), np.ones(2))
    assert numbers.shape == (2, 0)
    assert last.tolist() == [-1, -1]
    with pytest.raises(SpecError, match="give none, page_hinkley, adwin"):
        drift.checked("river", "kswin")
