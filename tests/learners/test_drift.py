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


def worlds(n, turned, seed, size=0.25):
    """Rows of two arms whose advantages, as predicted, are ``±size`` by the context."""
    random = np.random.default_rng(seed)
    arm = (random.random(n) < 0.3).astype(np.int64)
    advantage = size * np.where(random.random(n) < 0.5, 1.0, -1.0) * np.where(arm == 0, 1, -1)
    residual = random.normal(size=n) - 2.0 * advantage * turned
    return arm, advantage, residual


def test_arms_that_change_places_are_seen_though_no_arms_mean_moves():
    # Measured on 200 streams: after 110 rows in the median, after 312 at worst.
    for seed in range(20):
        quiet = drift.Contrast(np.zeros(2)).after(*worlds(1_000, False, seed))
        assert not quiet.changed.any()
        arm, advantage, residual = worlds(500, True, 1_000 + seed)
        found = quiet.after(arm, advantage, residual)
        assert found.changed.all()
        assert 400 <= found.rows <= 700
        _, alarm = drift.alarms("page_hinkley", drift.start("page_hinkley", 2), arm, residual)
        assert (alarm < 0).all()


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_arms_whose_differences_hold_or_are_merely_too_large_are_hardly_ever_named(kept):
    # Measured on 100 streams: 0 where all of the advantage holds, 3 where half of it does.
    named = 0
    for seed in range(10):
        arm, advantage, residual = worlds(5_000, False, seed)
        residual = residual - (1.0 - kept) * advantage
        named += int(drift.Contrast(np.zeros(2)).after(arm, advantage, residual).changed.any())
    assert named <= 1


def test_of_the_arms_that_did_not_change_few_are_named_with_one_that_did():
    # Measured on 400 streams: 15 in 100 of them.
    named = np.zeros(3)
    for seed in range(40):
        arm = np.arange(600) % 3
        advantage = np.array([0.5, -0.25, -0.25])[arm]
        residual = np.random.default_rng(seed).normal(size=600)
        residual[arm == 0] -= 1.0  # the others' predictions hold
        named += drift.Contrast(np.zeros(3)).after(arm, advantage, residual).changed
    assert named[0] == 40
    assert named[1:].sum() <= 0.3 * 80


def test_a_batch_cut_anywhere_gives_the_same_evidence():
    rows = worlds(600, True, 0)
    whole = drift.Contrast(np.zeros(2)).after(*rows)
    cut = drift.Contrast(np.zeros(2))
    for part in (slice(0, 1), slice(1, 250), slice(250, 600)):
        cut = cut.after(*(each[part] for each in rows))
    assert cut.rows == whole.rows
    assert np.allclose(cut.evidence, whole.evidence, rtol=0, atol=1e-9)


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
