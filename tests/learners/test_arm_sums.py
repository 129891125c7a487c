from dataclasses import replace

import numpy as np
import pytest

from learners.arm_sums import ArmSums
from learners.errors import SpecError

ARMS = 3


def groups_of(log):
    return np.arange(len(log)) % 2


def test_a_cell_holds_the_self_normalised_mean_and_its_effective_number(log_of):
    log = log_of(300, ARMS)
    cells = ArmSums.empty(ARMS, 2).add(log, groups_of(log), max_importance=3.0).cells()
    for arm in range(ARMS):
        for group in range(2):
            rows = (log.action == arm) & (groups_of(log) == group)
            weight, reward = np.minimum(1 / log.propensity[rows], 3.0), log.reward[rows]
            mean = np.average(reward, weights=weight)
            assert cells.mean[arm, group] == pytest.approx(mean)
            assert cells.total[arm, group] == pytest.approx(weight.sum())
            effective = weight.sum() ** 2 / (weight**2).sum()
            assert cells.count[arm, group] == pytest.approx(effective)
            spread = np.average((reward - mean) ** 2, weights=weight)
            assert cells.variance[arm, group] == pytest.approx(spread)


def test_a_probe_counts_in_full_beside_rows_of_the_log(log_of):
    # 100 contexts asked of each of 4 arms, then 400 choices at a propensity of 1/4: each arm has
    # 100 rows of either kind, which tell equally much, though the weights are 1 and 4.
    probes = replace(
        log_of(400, 4),
        eligible=np.ones((400, 4), bool),
        action=np.tile(np.arange(4), 100),
        propensity=np.ones(400),
    )
    logged = replace(probes, propensity=np.full(400, 0.25), reward=probes.reward + 1.0)
    everywhere = np.zeros(400, dtype=np.int64)
    sums = ArmSums.empty(4, 1).add(probes, everywhere, 5.0).add(logged, everywhere, 5.0)
    cells = sums.cells()
    for arm in range(4):
        rows = probes.reward[probes.action == arm]
        assert cells.count[arm, 0] == pytest.approx(200)
        assert cells.mean[arm, 0] == pytest.approx(rows.mean() + 0.5)
        assert cells.variance[arm, 0] == pytest.approx(rows.var() + 0.25)


def test_a_choice_without_another_is_no_probe(log_of):
    log = log_of(60, ARMS)
    alone = np.zeros((60, ARMS), bool)
    alone[np.arange(60), log.action] = True
    served = replace(log, eligible=alone, propensity=np.ones(60))
    sums = ArmSums.empty(ARMS, 2).add(served, groups_of(log), 5.0)
    assert sums.values[:, :, 0].any()
    assert not sums.values[:, :, 1].any()


def test_rows_fade_by_the_weight_that_follows_them(log_of):
    log = replace(log_of(50, ARMS), weight=np.random.default_rng(0).random(50))
    faded = ArmSums.empty(ARMS, 2)
    for start, stop in ((0, 20), (20, 21), (21, 50)):
        piece = log.rows(slice(start, stop))
        faded = faded.add(piece, groups_of(log)[start:stop], 1.0, half_life=8.0)
    after = np.array([log.weight[i + 1 :].sum() for i in range(50)])
    weight = log.weight * 2.0 ** (-after / 8.0)
    for arm in range(ARMS):
        rows = (log.action == arm) & (groups_of(log) == 1)
        expected = [weight[rows].sum(), (weight[rows] ** 2).sum(), weight[rows] @ log.reward[rows]]
        assert np.allclose(faded.values[arm, 1].sum(axis=0)[:3], expected, rtol=1e-9, atol=0)


def test_what_has_faded_to_nothing_is_as_if_it_had_never_been(log_of):
    log = log_of(20, ARMS).rows(slice(0, 1))
    sums = ArmSums.empty(ARMS, 1).add(log, np.zeros(1, dtype=np.int64), 1.0)
    later = replace(sums, values=sums.values * np.array([1e-200, 0.0, 1e-200, 1e-200]))
    cells = later.cells()
    assert not cells.count.any()
    assert not cells.mean.any()


def test_too_many_cells_are_refused():
    with pytest.raises(SpecError, match="at most"):
        ArmSums.empty(1000, 1000)
