from typing import Any

import numpy as np
import pytest
from scipy import stats

from learners import vw_ensemble, vw_model
from learners.contract import Spec
from learners.errors import SpecError

ARMS = 4
FALSE_ALARM = 1e-6
"""Of the chi-square test; its seed is fixed."""


def test_a_member_sees_an_interaction_a_poisson_number_of_times():
    drawn = vw_ensemble.counts(3, 0, 20_000, 4).ravel()
    seen = np.bincount(np.minimum(drawn, 5), minlength=6)
    expected = stats.poisson.pmf(np.arange(5), 1.0)
    expected = np.append(expected, 1 - expected.sum()) * len(drawn)
    assert stats.chisquare(seen, expected).pvalue > FALSE_ALARM


def test_the_draws_do_not_depend_on_how_the_log_was_cut():
    whole = vw_ensemble.counts(5, 0, 100, 3)
    pieces = [vw_ensemble.counts(5, 0, 30, 3), vw_ensemble.counts(5, 30, 70, 3)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert not np.array_equal(whole, vw_ensemble.counts(6, 0, 100, 3))


def test_the_bonus_of_cover_is_that_of_the_paper():
    # Three arms at t = 12: μ = 1/6. The second member sees one vote for arm 2, the third
    # sees one for arm 2 and one for arm 0; nobody comes after the last.
    bonus = vw_ensemble.covered(np.array([2, 0, 1]), 3, 12)
    none, one, half = 1.0, (1 / 6) / (1 / 2 + 1 / 6), (1 / 6) / (1 / 4 + 1 / 6)
    expected = np.array([[0, 0, 0], [none, none, one], [half, none, half]])
    assert np.allclose(bonus, expected)


@pytest.mark.parametrize("method", vw_ensemble.METHODS)
def test_each_method_learns_the_same_in_pieces_and_after_a_restore(schema, log_of, method):
    log = log_of(150, ARMS)
    spec = Spec(schema, log.arms, {"method": method, "members": 3}, seed=2)
    whole = vw_ensemble.learn(vw_ensemble.init(spec), log)
    state = vw_ensemble.init(spec)
    for start, stop in ((0, 1), (1, 70), (70, 150)):
        state = vw_ensemble.restore(spec, vw_ensemble.snapshot(state))
        state = vw_ensemble.learn(state, log.rows(slice(start, stop)))
    first, second = (vw_ensemble.freeze(each).weights for each in (whole, state))
    assert np.abs(first - second).max() < 1e-8


@pytest.mark.parametrize("method", vw_ensemble.METHODS)
def test_a_members_scores_are_vws_own(schema, log_of, contexts_of, method):
    log = log_of(150, ARMS)
    spec = Spec(schema, log.arms, {"method": method, "members": 3})
    state = vw_ensemble.learn(vw_ensemble.init(spec), log)
    workspace, member, arm = vw_model.load(state.model), 2, 1
    x = contexts_of(100, 3)
    exported = x @ vw_ensemble.freeze(state).weights[member, arm]
    blocks = np.full(len(x), member * ARMS + arm)
    found: list[Any] = [
        workspace.predict_one([vw_model.example(row)]) for row in vw_model.rows(x, blocks)
    ]
    own = [scores[0][1] for scores in found]
    expected = state.moments.mean - np.array(own) * state.moments.scale
    assert np.abs(exported - expected).max() < 1e-6


@pytest.mark.parametrize("method", vw_ensemble.METHODS)
def test_votes_agree_as_evidence_grows(schema, log_of, contexts_of, method):
    spec = Spec(schema, log_of(1, ARMS).arms, {"method": method, "floor": 0.0})
    state = vw_ensemble.init(spec)
    x, every = contexts_of(400, 5), np.ones((400, ARMS), dtype=np.bool_)
    certain = []
    for n in (30, 1_500):
        state = vw_ensemble.learn(state, log_of(n, ARMS, seed=n))
        certain.append(vw_ensemble.freeze(state).distribution(x, every).max(axis=1).mean())
    assert certain[0] < certain[1] - 0.03
    assert certain[1] > 0.8


def test_a_parameter_out_of_range_is_refused(schema):
    for params, message in (
        ({"method": "boost"}, "give bag, cover"),
        ({"members": 0}, "at least 1"),
        ({"members": 65}, "at most 64"),
    ):
        with pytest.raises(SpecError, match=message):
            vw_ensemble.init(Spec(schema, ("a", "b"), params))
