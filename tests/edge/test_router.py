from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ProblemError
from edge.router import NoArmError, decide, eligible_arms
from learners.bundle import Bundle, seal, unseal
from learners.errors import BundleError, ContextError
from learners.exploration import Exploration
from learners.ids import uuid7
from learners.lineup import Challenger, Golden, Lineup, Split, Variant
from learners.scorers.linear import Linear
from tests.edge.doubles import ARMS, KEY, make_bundle, replaced

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


def staged(share: float) -> Bundle:
    """The bundle with version 7, which always takes `large`, in a canary and as a shadow."""
    weights = np.zeros((len(ARMS), BUNDLE.schema.dimension))
    weights[ARMS.index("large"), 0] = 1.0
    other = Challenger(
        7, "always_large", BUNDLE.schema, Linear(ARMS, weights, Exploration("greedy", floor=0.2))
    )
    split = Split(
        "canary",
        "s",
        "session",
        (Variant("canary", share, 7), Variant("control", 1.0 - share)),
    )
    return replaced(BUNDLE, lineup=Lineup((other,), (split,), (7,)), golden=())


def test_the_version_that_a_session_belongs_to_decides_with_its_own_probabilities():
    bundle = staged(0.5)
    seen = set()
    for number in range(200):
        session = f"session-{number % 20}"
        found = decide(
            bundle, CONTEXT, decision_id=an_id(number), at=AT, eligible=ARMS, session_id=session
        )
        exact = bundle.distribution(CONTEXT, ARMS, version=found.version)
        assert found.propensity == exact[bundle.index[found.action]]
        assert found.version == (7 if found.variant == "canary" else bundle.version)
        seen.add((session, found.variant))
    assert len(seen) == 20
    assert {variant for _, variant in seen} == {"canary", "control"}


def test_a_shadow_says_what_it_would_have_done_and_changes_nothing():
    bundle = staged(0.0)
    assert bundle.digest != BUNDLE.digest
    drawn = []
    for number in range(300):
        found = decide(bundle, CONTEXT, decision_id=an_id(number), at=AT, eligible=ARMS)
        assert found.version == bundle.version
        [shadow] = found.shadows
        exact = bundle.distribution(CONTEXT, ARMS, version=7)
        assert shadow.propensity == exact[bundle.index[shadow.action]]
        assert shadow.served == exact[bundle.index[found.action]]
        drawn.append(shadow.action == "large")
    assert sum(drawn) / len(drawn) == pytest.approx(1 - 0.2 * 2 / 3, abs=0.08)


def test_a_sealed_line_up_comes_back_whole_and_tests_itself():
    bundle = staged(0.5)
    [other] = bundle.lineup.challengers
    exact = tuple(bundle.distribution(CONTEXT, ARMS, version=7).tolist())
    told = replaced(other, golden=(Golden(CONTEXT, ARMS, exact),))
    whole = replaced(bundle, lineup=Lineup((told,), bundle.lineup.splits, (7,)))
    read = unseal(seal(whole, [KEY]), [KEY.public_key()])
    read.self_test()
    assert read.digest == whole.digest
    assert read.lineup.splits == whole.lineup.splits
    wrong = replaced(other, golden=(Golden(CONTEXT, ARMS, (0.2, 0.3, 0.5)),))
    with pytest.raises(BundleError, match="chat@7 serial 1: golden vector 0"):
        replaced(bundle, lineup=Lineup((wrong,), bundle.lineup.splits, (7,))).self_test()
