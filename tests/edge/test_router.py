from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ProblemError
from edge.router import NoArmError, decide, eligible_arms
from learners.errors import ContextError
from learners.exploration import Exploration
from learners.ids import uuid7
from tests.edge.doubles import ARMS, make_bundle

AT = datetime.now(UTC)
SOFT = Exploration("softmax", floor=0.1, temperature=2.0)
BUNDLE = make_bundle(exploration=SOFT)
EXPIRED = make_bundle(expires_in=timedelta(seconds=-1), golden=False)
CONTEXT = {"chars": 4.0, "price": 1.5, "code": True}


def an_id(number: int) -> str:
    return str(uuid7(AT, number.to_bytes(10, "big")))


@given(st.integers(0, 2**79), st.sets(st.sampled_from(ARMS), min_size=1))
def test_the_logged_probabilities_are_those_of_the_scorer_over_the_eligible_arms(number, chosen):
    eligible = [name for name in ARMS if name in chosen]
    found = decide(BUNDLE, CONTEXT, decision_id=an_id(number), at=AT, eligible=eligible)
    exact = BUNDLE.distribution(CONTEXT, eligible)
    assert found.distribution == tuple(exact[BUNDLE.index[name]] for name in eligible)
    assert found.propensity == exact[BUNDLE.index[found.action]] > 0
    assert sum(found.distribution) == pytest.approx(1.0)
    assert found.mode == "policy"


@given(st.integers(0, 2**79))
def test_the_same_id_and_bundle_give_the_same_decision(number):
    def once():
        return decide(BUNDLE, CONTEXT, decision_id=an_id(number), at=AT, eligible=ARMS)

    assert once() == once()


def test_different_ids_reach_every_arm():
    found = {
        decide(BUNDLE, CONTEXT, decision_id=an_id(n), at=AT, eligible=ARMS).action
        for n in range(300)
    }
    assert found == set(ARMS)


def test_an_expired_bundle_serves_its_fallback_arm_with_certainty():
    for number in range(20):
        found = decide(EXPIRED, CONTEXT, decision_id=an_id(number), at=AT, eligible=ARMS)
        assert (found.mode, found.action, found.propensity) == ("fallback", "small", 1.0)
        assert found.distribution == (1.0, 0.0, 0.0)


def test_an_expired_bundle_vouches_for_no_other_arm():
    with pytest.raises(NoArmError, match=r"expired at .* only its fallback arm 'small'"):
        decide(EXPIRED, CONTEXT, decision_id=an_id(1), at=AT, eligible=ARMS[1:])


def test_no_eligible_arm_is_an_error():
    with pytest.raises(NoArmError, match="no arm of policy 'chat' is left"):
        decide(BUNDLE, CONTEXT, decision_id=an_id(1), at=AT, eligible=())


def test_a_context_that_does_not_fit_the_schema_is_an_error():
    with pytest.raises(ContextError, match=r"context\.price is 'cheap'"):
        decide(BUNDLE, {"price": "cheap"}, decision_id=an_id(1), at=AT, eligible=ARMS)


def test_eligible_arms_stand_in_the_bundles_order_whatever_the_requests():
    assert eligible_arms(BUNDLE, actions=["large", "small"]) == ("small", "large")
    assert eligible_arms(BUNDLE, excluded=["small"]) == ("medium", "large")
    assert eligible_arms(BUNDLE, actions=["large", "small"], excluded=["large"]) == ("small",)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"actions": ["huge"]}, "actions"),
        ({"excluded": ["huge"]}, "excluded_actions"),
        ({"actions": []}, "actions"),
        ({"excluded": ARMS}, "excluded_actions"),
        ({"actions": ["small"], "excluded": ["small"]}, "excluded_actions"),
    ],
)
def test_unknown_arms_and_empty_choices_are_refused_by_field(given, field):
    with pytest.raises(ProblemError) as caught:
        eligible_arms(BUNDLE, **given)
    assert caught.value.status == 422
    assert caught.value.members["field"] == field
    assert "small" in caught.value.members["remedy"]
