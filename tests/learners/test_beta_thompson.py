from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from learners import beta_thompson
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.interactions import Interactions

FALSE_ALARM = 1e-6
"""Of one chi-square test; the seed is fixed, so what passes once passes always."""
ARMS = ("a", "b", "c", "d")
NAMES = tuple(f"domain-{i}" for i in range(12))
ONE = Schema(())
SCHEMA = Schema((Feature("domain", "category", values=NAMES),))
X = SCHEMA.encode_all([{"domain": name} for name in NAMES])
MANY = beta_thompson.MAX_MEMBERS


def log_of_chances(chances, n, seed):
    """n uniform choices whose rewards are 0 or 1 by the chances (K, G) of arms in domains."""
    random = np.random.default_rng(seed)
    action = random.integers(len(chances), size=n)
    domain = random.integers(chances.shape[1], size=n)
    x = X[domain] if chances.shape[1] > 1 else np.ones((n, 1))
    return Interactions(
        arms=ARMS,
        x=x,
        eligible=np.ones((n, len(ARMS)), bool),
        action=action,
        propensity=np.full(n, 1 / len(ARMS)),
        reward=(random.random(n) < chances[action, domain]).astype(float),
        weight=np.ones(n),
    )


def trained(log, schema=ONE, seed=0, **params):
    spec = Spec(schema, log.arms, params, seed)
    return beta_thompson.learn(beta_thompson.init(spec), log)


def members_of(state):
    """The drawn chances, shape (members, K), of a policy of one domain."""
    return beta_thompson.freeze(state).weights[:, :, 0]


def test_the_votes_are_the_frequencies_of_simulated_posterior_draws():
    log = log_of_chances(np.array([[0.4], [0.5], [0.55], [0.5]]), 60, 0)
    state = trained(log, members=MANY, floor=0.0)
    scorer = beta_thompson.freeze(state)
    (share,) = scorer.distribution(np.ones((1, 1)), np.ones((1, 4), bool))
    # Beta posteriors about the pool's mean, which is itself shrunk to 1/2 by 2 interactions.
    wins = np.bincount(log.action, log.reward, 4)
    losses = np.bincount(log.action, 1 - log.reward, 4)
    pool = (1.0 + wins.sum()) / (2.0 + len(log))
    random = np.random.default_rng(1)
    draws = random.beta(2 * pool + wins, 2 * (1 - pool) + losses, size=(400_000, 4))
    expected = np.bincount(draws.argmax(axis=1), minlength=4) / len(draws)
    assert expected.min() > 0.01
    assert stats.chisquare(share * MANY, expected * MANY).pvalue > FALSE_ALARM
    for arm in range(4):
        found = stats.kstest(scorer.weights[:, arm, 0], draws[:, arm])
        assert found.pvalue > FALSE_ALARM


def test_a_steady_reward_is_known_as_well_as_its_standard_error():
    # Far narrower than a coin of the same mean, in dollars below 0, with one outlier each way.
    random = np.random.default_rng(0)
    log = log_of_chances(np.full((4, 1), 0.5), 4_000, 0)
    reward = -3.0 - 0.1 * log.action + random.normal(size=4_000) / 5
    reward[:2] = -8.0, 1.0
    found = members_of(trained(replace(log, reward=reward), members=MANY))
    for arm in range(4):
        rows = reward[log.action == arm]
        assert found[:, arm].mean() == pytest.approx(rows.mean(), abs=0.01)
        # The counts are raised by the mean ratio of all arms, and outliers widen one arm's own.
        assert 0.7 < found[:, arm].std() / (0.25 / np.sqrt(len(rows))) < 1.3


def test_nine_of_ten_true_chances_lie_in_the_drawn_nine_tenths():
    # Worlds of the model: arms' chances, and domains' about them with a strength of 10. The
    # standard error of the share, by world, is about 1.2 %; an empirical Bayes posterior is a
    # little narrow, as it takes the fitted strength for known.
    inside = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        arms = random.uniform(0.3, 0.7, size=(4, 1))
        chances = random.beta(10 * arms, 10 * (1 - arms), size=(4, len(NAMES)))
        state = trained(log_of_chances(chances, 800, seed), SCHEMA, members=400)
        drawn = np.moveaxis(beta_thompson.freeze(state).weights @ X.T, 0, -1)
        low, high = np.quantile(drawn, [0.05, 0.95], axis=-1)
        inside.append(((low < chances) & (chances < high)).mean())
    assert 0.84 < np.mean(inside) < 0.95


def test_where_domains_do_not_differ_an_arm_draws_alike_in_all_of_them():
    hard = np.linspace(-0.2, 0.2, len(NAMES))
    chances = np.array([0.35, 0.45, 0.5, 0.6])[:, None] + hard
    infinite = 0
    for seed in range(20):
        state = trained(log_of_chances(chances, 2_000, seed), SCHEMA)
        found = beta_thompson.posterior(state)
        infinite += found.domain_strength >= 1e9
        assert found.domain_strength > 15
        assert np.abs(found.expected[:, :-1] - chances).max() < 0.25
    assert infinite >= 5


def test_where_domains_differ_it_chooses_the_best_of_each():
    chances = np.full((len(ARMS), len(NAMES)), 0.4)
    chances[np.arange(len(NAMES)) % len(ARMS), np.arange(len(NAMES))] = 0.8
    state = trained(log_of_chances(chances, 3_000, 0), SCHEMA, floor=0.0)
    assert beta_thompson.posterior(state).domain_strength < 20
    spread = beta_thompson.freeze(state).distribution(X, np.ones((len(X), 4), bool))
    assert (spread * chances.T).sum(axis=1).mean() > 0.77


def test_a_given_strength_is_what_an_arm_counts_for_in_a_domain():
    chances = np.array([0.2, 0.4, 0.6, 0.8])[:, None] + np.zeros((1, len(NAMES)))
    log = log_of_chances(chances, 400, 0)
    state = trained(log, SCHEMA, members=MANY, domain_strength=30.0)
    found = beta_thompson.posterior(state)
    drawn = beta_thompson.freeze(state).weights @ X.T
    cells = state.sums.cells()
    wins, rows = (cells.mean * cells.count)[:, :-1], cells.count[:, :-1]
    expected = (30.0 * found.expected[:, :-1] + wins) / (30.0 + rows)
    # The members' mean, which a greedy choice goes by, holds none of the luck of the draws.
    assert np.allclose(drawn.mean(axis=0), expected, rtol=0, atol=1e-9)
    # Ever so many interactions in a domain say no more of the arm elsewhere than 31 would.
    many = trained(log_of_chances(chances, 60_000, 0), SCHEMA, domain_strength=30.0)
    strength = beta_thompson.posterior(many).strength
    assert (strength > 2.0 + 0.9 * 31.0 * len(NAMES)).all()
    assert (strength < 2.0 + 31.0 * len(NAMES)).all()


def test_a_seeded_arm_starts_from_its_own_prior():
    spec = Spec(ONE, ARMS, {"seeds": '{"b": 0.9, "z": 0.1}', "prior_strength": 20.0})
    state = beta_thompson.init(spec)
    found = beta_thompson.posterior(state)
    assert np.allclose(found.arm, [0.5, 0.9, 0.5, 0.5])
    assert np.allclose(found.strength, 20.0)
    spread = beta_thompson.freeze(state).distribution(np.ones((1, 1)), np.ones((1, 4), bool))
    assert spread[0, 1] > 0.9
    # 30 failures of the seeded arm are more than 20 interactions of praise.
    log = log_of_chances(np.full((4, 1), 0.5), 120, 0)
    told = replace(log, reward=np.where(log.action == 1, 0.0, log.reward))
    later = beta_thompson.posterior(beta_thompson.learn(state, told))
    n = (log.action == 1).sum()
    assert later.arm[1] == pytest.approx(0.9 * 20 / (20 + n))


def test_an_arm_whose_model_changed_starts_from_the_pool():
    log = log_of_chances(np.array([[0.1], [0.9], [0.5], [0.5]]), 800, 0)
    state = trained(log)
    revised = replace(state.spec, revisions=("", "new", "", ""))
    found = beta_thompson.posterior(beta_thompson.rearm(state, revised))
    assert found.strength[1] == pytest.approx(2.0)
    assert found.arm[1] == pytest.approx(log.reward[log.action != 1].mean(), abs=0.01)
    assert np.allclose(found.strength[[0, 2]], 2.0 + np.bincount(log.action)[[0, 2]])


def test_a_reward_beyond_the_given_range_counts_as_its_end():
    log = log_of_chances(np.full((4, 1), 0.5), 200, 0)
    loud = replace(log, reward=np.where(log.reward > 0, 900.0, -900.0))
    found = members_of(trained(loud, low=0.0, high=1.0))
    assert np.allclose(found, members_of(trained(log)))


def test_rewards_that_are_all_alike_say_nothing_of_the_arms():
    log = log_of_chances(np.full((4, 1), 0.5), 200, 0)
    found = beta_thompson.posterior(trained(replace(log, reward=np.full(200, 7.0))))
    assert np.allclose(found.arm, 0.5)
    assert np.allclose(found.strength, 2.0 + np.bincount(log.action))


def test_with_a_half_life_an_arm_that_changed_is_followed_and_an_idle_one_is_tried_again():
    early = log_of_chances(np.array([[0.9], [0.5], [0.5], [0.2]]), 2_000, 0)
    late = log_of_chances(np.array([[0.1], [0.5], [0.5], [0.2]]), 1_000, 1)
    served = late.rows(late.action < 2)
    state = beta_thompson.learn(trained(early, half_life=100.0), served)
    found = beta_thompson.posterior(state)
    assert found.arm[0] < 0.3
    # 500 interactions later next to nothing is left of what the idle arms did.
    assert np.allclose(found.strength[2:], 2.0, atol=2.0)
    assert found.strength[:2].min() > 20.0
    kept = beta_thompson.posterior(beta_thompson.learn(trained(early), served))
    assert kept.arm[0] > 0.5


def test_each_revision_draws_anew_and_the_same_state_draws_the_same():
    log = log_of_chances(np.full((4, 1), 0.5), 200, 0)
    state = trained(log)
    assert np.array_equal(members_of(state), members_of(trained(log)))
    assert not np.array_equal(members_of(state), members_of(trained(log, seed=1)))
    nothing = beta_thompson.learn(state, log.rows(slice(0, 0)))
    assert np.array_equal(members_of(state), members_of(nothing))
    more = members_of(beta_thompson.learn(state, log.rows(slice(0, 1))))
    # New draws, not the old ones moved by one interaction.
    assert abs(np.corrcoef(members_of(state)[:, 2], more[:, 2])[0, 1]) < 0.7


def test_an_arms_draws_stay_when_another_leaves():
    log = log_of_chances(np.array([[0.4], [0.5], [0.6], [0.5]]), 800, 0)
    state = trained(log)
    fewer = beta_thompson.rearm(state, Spec(ONE, ("d", "b")))
    # The pool's mean moves a little with the arms, and each arm's prior with that.
    assert np.allclose(members_of(fewer), members_of(state)[:, [3, 1]], rtol=0, atol=0.01)


def test_without_forgetting_any_order_of_the_log_gives_the_same_draws():
    log = log_of_chances(np.full((4, len(NAMES)), 0.5), 300, 0)
    shuffled = log.rows(np.random.default_rng(0).permutation(300))
    first, second = (
        beta_thompson.freeze(trained(each, SCHEMA)).weights for each in (log, shuffled)
    )
    assert np.allclose(first, second, rtol=0, atol=1e-9)


def test_importance_weights_undo_a_log_that_shows_an_arm_where_it_is_good():
    random = np.random.default_rng(0)
    n = 20_000
    good = random.random(n) < 0.5
    share = np.where(good, 0.9, 0.1)
    action = np.where(random.random(n) < share, 0, 1)
    log = Interactions(
        arms=("a", "b"),
        x=np.ones((n, 1)),
        eligible=np.ones((n, 2), bool),
        action=action,
        propensity=np.where(action == 0, share, 1 - share),
        reward=np.where(action == 0, good, random.random(n) < 0.6).astype(float),
        weight=np.ones(n),
    )
    plain, weighted = (
        beta_thompson.posterior(trained(log, max_importance=cap)).arm[0] for cap in (1.0, 20.0)
    )
    assert plain == pytest.approx(0.9, abs=0.03)
    assert weighted == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "params",
    [
        {"members": 0},
        {"members": MANY + 1},
        {"prior": 1.0},
        {"prior": 0.0},
        {"prior_strength": 0.0},
        {"low": 2.0, "high": 1.0},
        {"half_life": -1.0},
        {"seeds": "a=0.5"},
        {"seeds": '{"a": 1.0}'},
        {"seeds": "[0.5]"},
        {"seeds": '{"a": NaN}'},
        {"domain": "topic"},
        {"domain_strength": -1.0},
    ],
)
def test_what_makes_no_posterior_is_refused(params):
    with pytest.raises(SpecError):
        beta_thompson.init(Spec(ONE, ARMS, params))


def test_members_that_no_bundle_holds_are_refused():
    wide = Schema((Feature("terms", "vector", size=4000),))
    with pytest.raises(SpecError, match="fewer members"):
        beta_thompson.init(Spec(wide, ARMS, {"members": MANY}))
