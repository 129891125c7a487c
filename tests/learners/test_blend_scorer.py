import numpy as np
import pytest

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers import base
from learners.scorers.base import Scorer
from learners.scorers.blend import MAX_MEMBERS, Blend, blend
from learners.scorers.ensemble import Ensemble
from learners.scorers.linear import constant
from learners.shifts import longest_step, mean_total_variation

ARMS = ("a", "b", "c")
X = np.random.default_rng(0).normal(size=(50, 4))
X[:, 0] = 1.0
ELIGIBLE = np.ones((50, 3), dtype=np.bool_)


def sticks(arm: str, floor: float = 0.1) -> Scorer:
    return constant({name: float(name == arm) for name in ARMS}, 4, Exploration("greedy", floor))


def votes(seed: int) -> Ensemble:
    weights = np.random.default_rng(seed).normal(size=(16, 3, 4))
    return Ensemble(ARMS, weights, Exploration("votes", floor=0.06))


def test_its_probabilities_are_the_members_mixed_exactly() -> None:
    served, new = sticks("a"), votes(1)
    found = blend(served, new, 0.25).distribution(X, ELIGIBLE)
    parts = [one.distribution(X, ELIGIBLE) for one in (served, new)]
    assert found == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], abs=1e-15)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert found.min() >= 0.06 / 3 - 1e-12


def test_an_arm_that_is_not_eligible_has_no_chance() -> None:
    eligible = ELIGIBLE.copy()
    eligible[:, 0] = False
    found = blend(sticks("a"), votes(1), 0.5).distribution(X, eligible)
    assert (found[:, 0] == 0).all()
    assert found.sum(axis=1) == pytest.approx(1.0)


def test_it_is_read_back_as_it_was_written() -> None:
    made = blend(blend(sticks("a"), votes(1), 0.3), votes(2), 0.2)
    again = base.load(made.as_json(), made.tensors())
    assert isinstance(again, Blend)
    assert len(again.members) == 3
    assert again.weights.tolist() == pytest.approx([0.56, 0.24, 0.2])
    assert (again.distribution(X, ELIGIBLE) == made.distribution(X, ELIGIBLE)).all()
    assert again.as_json() == made.as_json()


def test_it_goes_over_to_other_arms_and_floors_with_its_members() -> None:
    made = blend(sticks("a", 0.02), votes(1), 0.5)
    assert made.exploration.floor == 0.02
    wider = made.floored(0.3).over(("b", "c", "d"))
    assert wider.arms == ("b", "c", "d")
    assert wider.exploration.floor == 0.3
    assert wider.distribution(X, ELIGIBLE).min() >= 0.1 - 1e-12
    assert made.floored(0.01) is made


def test_the_ends_of_the_scale_are_the_policies_themselves() -> None:
    served, new = sticks("a"), sticks("b")
    assert blend(served, new, 0.0) is served
    assert blend(served, new, 1.0) is new
    with pytest.raises(SpecError, match="outside"):
        blend(served, new, 1.5)


def test_with_too_many_members_the_least_goes() -> None:
    made: Scorer = sticks("a")
    for seed in range(20):
        made = blend(made, votes(seed), 0.1)
    assert isinstance(made, Blend)
    assert len(made.members) == MAX_MEMBERS
    assert made.weights.sum() == pytest.approx(1.0)
    assert made.members[0].arms == ARMS


def test_members_that_do_not_fit_are_refused() -> None:
    one, two = sticks("a"), sticks("b")
    weights = np.array([0.5, 0.5])
    with pytest.raises(SpecError, match="sum to 1"):
        Blend(ARMS, one.exploration, (one, two), np.array([0.5, 0.6]))
    with pytest.raises(SpecError, match="above 0"):
        Blend(ARMS, one.exploration, (one, two), np.array([0.0, 1.0]))
    with pytest.raises(SpecError, match="arms differ"):
        Blend(ARMS, one.exploration, (one, two.over(("a", "b"))), weights)
    with pytest.raises(SpecError, match="within another"):
        Blend(ARMS, one.exploration, (one, blend(one, two, 0.5)), weights)
    with pytest.raises(SpecError, match="not the members'"):
        Blend(ARMS, Exploration("softmax"), (one, two), weights)
    other = constant(dict.fromkeys(ARMS, 0.0), 5, one.exploration)
    with pytest.raises(SpecError, match="columns differ"):
        Blend(ARMS, one.exploration, (one, other), weights)


def test_the_step_is_as_long_as_it_may_be() -> None:
    served, new = (one.distribution(X, ELIGIBLE) for one in (sticks("a"), sticks("b")))
    assert mean_total_variation(served, new) == pytest.approx(0.9)
    share = longest_step(served, served, new, 0.1)
    assert share == pytest.approx(0.1 / 0.9)
    moved = blend(sticks("a"), sticks("b"), share).distribution(X, ELIGIBLE)
    assert mean_total_variation(served, moved) <= 0.1 + 1e-12
    assert longest_step(served, served, new, 0.95) == 1.0
    assert longest_step(served, new, new, 0.1) == 0.0
    assert mean_total_variation(served[:0], new[:0]) == 0.0
