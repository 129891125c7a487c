from datetime import UTC, datetime

import numpy as np
import pytest

from learners.bundle import Bundle
from learners.errors import BundleError, ContextError
from learners.exploration import Exploration
from learners.features import Feature, Schema
from learners.lineup import Golden
from learners.preferences import MAX_FACTOR, check_factor, in_context, mixes
from learners.records import Arm
from learners.rewards import GATE_PART
from learners.scorers.linear import constant
from learners.scorers.mixed import Mixed

SCHEMA = Schema((Feature("chars", "number"),))
ARMS = ("small", "large")
PARTS = ("score", "cost_usd", "latency_s", GATE_PART)
MIX = np.array([1.0, -2.0, -0.5, 1.0])


def scorer(exploration=None):
    weights = np.zeros((4, 2, 2))
    weights[:, :, 0] = [[0.4, 0.9], [0.1, 0.3], [1.0, 2.0], [0.0, -0.1]]
    return Mixed(ARMS, PARTS, weights, MIX, exploration or Exploration("greedy"))


def bundle(own=None, golden=()):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    arms = tuple(Arm(name, name, "") for name in ARMS)
    return Bundle("chat", 1, 1, at, at, arms, SCHEMA, own or scorer(), "small", "x", 1.0, golden)


def test_a_preference_is_a_factor_on_the_policys_own_weight():
    contexts = [{"chars": 1.0, **in_context({"cost": 0.5, "latency_s": 0.0})}, {"chars": 2.0}]
    found = mixes(contexts, scorer())
    assert found is not None
    assert found.tolist() == [[1.0, -1.0, -0.0, 1.0], MIX.tolist()]


def test_without_a_preference_the_scorers_own_mix_is_left_alone():
    assert mixes([{"chars": 1.0}], scorer()) is None
    assert mixes([], scorer()) is None


def test_a_scorer_without_parts_takes_no_notice():
    linear = constant(dict.fromkeys(ARMS, 0.5), SCHEMA.dimension, Exploration("greedy"))
    context = {"chars": 0.0, **in_context({"beauty": 3.0})}
    assert mixes([context], linear, strict=True) is None
    assert bundle(linear).distribution(context, ARMS).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", ["beauty", "cost_eur", "", "usd", GATE_PART])
def test_what_may_not_be_weighed_is_refused_with_what_may(name):
    context = in_context({name: 1.0})
    with pytest.raises(ContextError) as error:
        mixes([context], scorer(), strict=True)
    message = str(error.value)
    assert message.startswith(f"context.preference.{name} is no part of the reward")
    assert message.endswith("name one of score, cost_usd, latency_s")


def test_a_part_that_is_named_twice_is_refused():
    context = in_context({"cost": 2.0, "cost_usd": 3.0})
    with pytest.raises(ContextError, match="names cost_usd again"):
        mixes([context], scorer(), strict=True)


@pytest.mark.parametrize(
    "factor", [-0.1, MAX_FACTOR * 1.01, float("nan"), float("inf"), "1", True, None, [1.0]]
)
def test_what_is_no_factor_is_refused(factor):
    with pytest.raises(ContextError, match=r"preference\.cost is .*: give a number from 0 to 1000"):
        check_factor("cost", factor)
    with pytest.raises(ContextError):
        mixes([{"preference.cost": factor}], scorer(), strict=True)


def test_a_log_of_other_preferences_is_judged_as_if_they_were_not_there():
    # They came to a policy that took no notice of them, or under another reward.
    contexts = [in_context({"beauty": 9.0}), in_context({"cost": 0.0}), in_context({"cost": -1.0})]
    found = mixes(contexts, scorer())
    assert found is not None
    assert found.tolist() == [MIX.tolist(), [1.0, -0.0, -0.5, 1.0], MIX.tolist()]


def test_a_bundle_follows_the_contexts_preference():
    context = {"chars": 0.0}
    one = bundle()
    # small .4 - .2 - .5 = -.3; large .9 - .6 - 1 - .1 = -.8
    assert one.distribution(context, ARMS).tolist() == [1.0, 0.0]
    free = {**context, **in_context({"cost": 0.0, "latency": 0.0})}
    assert one.distribution(free, ARMS).tolist() == [0.0, 1.0]
    with pytest.raises(ContextError):
        one.distribution({**context, **in_context({"beauty": 1.0})}, ARMS)


def test_a_golden_vector_with_a_preference_is_reproduced_and_tells_when_it_is_not_followed():
    soft = scorer(Exploration("softmax", temperature=1.0))
    context = {"chars": 0.5, **in_context({"cost": 3.0})}
    found = tuple(bundle(soft).distribution(context, ARMS).tolist())
    bundle(soft, (Golden(context, ARMS, found),)).self_test()
    without = tuple(bundle(soft).distribution({"chars": 0.5}, ARMS).tolist())
    with pytest.raises(BundleError, match="golden vector 0"):
        bundle(soft, (Golden(context, ARMS, without),)).self_test()
