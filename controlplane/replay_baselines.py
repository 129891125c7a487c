"""What a replayed learner is measured against: policies made with all arms' rewards known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
PENALTIES = tuple(10.0**exponent for exponent in range(7))
"""Ridge penalties to choose from; the largest leaves little but the best fixed arm."""

Choice = NDArray[np.float64]
"""Probability of each arm for each query, shape ``(n, K)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a table, encoded: every arm's outcome for every query.

    Attributes:
        query_ids: n names.
        domains: n domains, or None where the table has none.
        x: encoded contexts, shape ``(n, d)``.
        rewards: shape ``(n, K)``.
        rewards_all_paid: shape ``(n, K)``: an arm's reward if the costs of all arms were charged.
        scores: shape ``(n, K)``.
        costs_usd: shape ``(n, K)``.
        parts: the reward's parts, shape ``(n, K, m)``.
    """

    query_ids: tuple[str, ...]
    domains: tuple[str, ...] | None
    x: NDArray[np.float64]
    rewards: NDArray[np.float64]
    rewards_all_paid: NDArray[np.float64]
    scores: NDArray[np.float64]
    costs_usd: NDArray[np.float64]
    parts: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Value:
    """What a policy earns per query of a side."""

    test_reward: float
    test_score: float
    test_cost_usd: float

    def as_json(self) -> dict[str, float]:
        """Plain form."""
        return {
            "test_reward": self.test_reward,
            "test_score": self.test_score,
            "test_cost_usd": self.test_cost_usd,
        }


def judge(side: Side, choice: Choice) -> Value:
    """The mean outcome of a policy; of a spread choice, the expectation."""
    n = len(side.rewards)
    return Value(
        test_reward=float((choice * side.rewards).sum() / n),
        test_score=float((choice * side.scores).sum() / n),
        test_cost_usd=float((choice * side.costs_usd).sum() / n),
    )


def compare(train: Side, test: Side) -> dict[str, Value | None]:
    """The baselines that see the whole training side, judged on the test side."""
    n, k = test.rewards.shape
    return {
        "best_fixed": judge(test, best_fixed(train.rewards, n)),
        "per_domain": _judge_per_domain(train, test),
        "random": judge(test, np.full((n, k), 1.0 / k)),
        "full_information": judge(test, full_information(train, test.x)),
    }


def best_fixed(rewards: NDArray[np.float64], n: int) -> Choice:
    """The arm of the best mean among ``rewards`` ``(m, K)``, for each of n queries."""
    return _always(np.full(n, rewards.mean(axis=0).argmax()), rewards.shape[1])


def _judge_per_domain(train: Side, test: Side) -> Value | None:
    """The best fixed arm of each domain; of all training queries for an unseen domain."""
    if train.domains is None or test.domains is None:
        return None
    best = int(train.rewards.mean(axis=0).argmax())
    seen = np.array(train.domains)
    arms = {
        domain: int(train.rewards[seen == domain].mean(axis=0).argmax())
        for domain in sorted(set(train.domains))
    }
    chosen = np.array([arms.get(domain, best) for domain in test.domains])
    return judge(test, _always(chosen, test.rewards.shape[1]))


def full_information(train: Side, x: NDArray[np.float64]) -> Choice:
    """A ridge regression of every arm's reward on the context; the best prediction is chosen.

    The penalty is the one whose policy earns most on the held-out folds of the training side; of
    equals the largest.
    """
    folds = np.arange(len(train.x)) % FOLDS
    earned = np.zeros(len(PENALTIES))
    for fold in range(FOLDS):
        held = folds == fold
        if held.all() or not held.any():
            continue
        predicted = _ridge(train.x[~held], train.rewards[~held], train.x[held])
        for i, scores in enumerate(predicted):
            earned[i] += train.rewards[held][np.arange(held.sum()), scores.argmax(axis=1)].sum()
    penalty = max(zip(earned.round(9), PENALTIES, strict=True))[1]
    (scores,) = _ridge(train.x, train.rewards, x, (penalty,))
    return _always(scores.argmax(axis=1), scores.shape[1])


def _ridge(
    x: NDArray[np.float64],
    rewards: NDArray[np.float64],
    x_new: NDArray[np.float64],
    penalties: tuple[float, ...] = PENALTIES,
) -> list[NDArray[np.float64]]:
    """Predicted rewards of shape ``(m, K)`` for each penalty; the arms' means are not shrunk."""
    centre, means = x.mean(axis=0), rewards.mean(axis=0)
    centred = x - centre
    # One decomposition serves every penalty.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    target = vectors.T @ (centred.T @ (rewards - means))
    basis = (x_new - centre) @ vectors
    return [
        means + basis @ (target / (np.maximum(values, 0.0) + penalty)[:, None])
        for penalty in penalties
    ]


def _always(chosen: NDArray[np.int64], k: int) -> Choice:
    return np.eye(k)[chosen]
