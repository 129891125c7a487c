"""Bradley–Terry: strengths of arms from votes between two of them, as a leaderboard.

The chance that arm i is preferred to arm j is ``σ(θ_i − θ_j)`` (Bradley & Terry 1952). The fit
maximises the votes' log-likelihood − l2/2 · Σ θ². A tie is half a win for each side. The penalty
makes the strengths unique and finite: an arm that never lost has one, and where arms fall in groups
that no vote connects, each group is centred on 0 and ranks across groups mean nothing.

Intervals are percentiles of a bootstrap over prompts, as the votes on one prompt are alike (Efron &
Tibshirani 1993; over votes where prompts are not known). What Music Arena (Kim et al.,
arXiv:2507.20900) and Chatbot Arena (Chiang et al., arXiv:2403.04132) show is of this kind; Music
Arena's published code leaves ties and the penalty out.

Measured on simulated votes over 5 arms (600 worlds, 400 resamples), the 95 % intervals hold the
true strength in 94.4 % with 400 votes in all and in 92 % with 60: a reason for ``LEAST_VOTES``.

A vote is what a judge said. A judge that can be gamed crowns who games it: weigh votes by the trust
in their source before they come here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import PreferenceError
from learners.votes import Votes

L2 = 0.1
"""Default penalty, 1 / prior variance: two arms that met 30 times, all won, stand as 30 to ¼."""
LEAST_VOTES = 30
"""Votes below which an arm is reported but not ranked."""
ROUNDS = 400
"""Bootstrap resamples; the ends of a 95 % interval are then about 10 resamples from the edge."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STEPS = 100
_HALVINGS = 40
_TOLERANCE = 1e-9
_CHUNK = 2**19
"""Entries of one batch of matrices: 4 MiB each, so that a bootstrap of many arms stays small."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Strengths of K arms.

    Attributes:
        arms: K names.
        strength: θ in logits, centred on 0 in each group, shape ``(K,)``.
        votes: Σ weight of each arm's votes, shape ``(K,)``.
        group: arms of one number are connected by votes, shape ``(K,)``.
    """

    arms: tuple[str, ...]
    strength: Floats
    votes: Floats
    group: Integers

    @property
    def win_probability(self) -> Floats:
        """Each arm's expected chance against the average opponent, see :func:`against_average`."""
        return against_average(self.strength, self.votes)


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of a leaderboard.

    Attributes:
        arm: its name.
        rank: place by strength among the ranked, from 1; None for an arm of too few votes.
        best_rank: the place that it would have if every ranked arm whose interval it meets were
            behind it; None where rank is.
        strength: in logits, with the interval ``low``, ``high``.
        win_probability: against the average opponent, with ``win_low``, ``win_high``.
        votes: Σ weight.
        group: arms of other groups were never compared with this one, not even by way of others.
    """

    arm: str
    rank: int | None
    best_rank: int | None
    strength: float
    low: float
    high: float
    win_probability: float
    win_low: float
    win_high: float
    votes: float
    group: int


def fit(votes: Votes, *, l2: float = L2) -> Fit:
    """Fit the strengths.

    Args:
        votes: any number, in any order.
        l2: penalty on the squared strengths, above 0.

    Raises:
        PreferenceError: ``l2`` is not above 0, or the fit does not converge.
    """
    return fit_wins(votes.arms, votes.wins(), l2=l2)


def fit_wins(arms: tuple[str, ...], table: Floats, *, l2: float = L2) -> Fit:
    """As :func:`fit`, from :meth:`learners.votes.Votes.wins`.

    A learner that goes on learning keeps the table, adds to it and fits again.
    """
    k = len(arms)
    if table.shape != (k, k) or not (np.isfinite(table) & (table >= 0.0)).all():
        raise PreferenceError(f"wins {table.shape}: give finite numbers from 0, shape {(k, k)}")
    games = table + table.T
    strength = _ascend(table[None], l2, np.zeros((1, k)))[0]
    return Fit(arms, strength, games.sum(axis=1), _groups(games > 0.0))


def bootstrap(votes: Votes, *, seed: int, rounds: int = ROUNDS, l2: float = L2) -> Floats:
    """Strengths fitted to resamples of the prompts, shape ``(rounds, K)``.

    A resample draws as many prompts as there are, with replacement, each with all its votes; votes
    where prompts are not known.

    Args:
        votes: at least one.
        seed: of the resampling.
        rounds: resamples, at least 2.
        l2: as for :func:`fit`.

    Raises:
        PreferenceError: There are no votes, or fewer than 2 rounds.
    """
    m, k = len(votes.winner), len(votes.arms)
    if m == 0 or rounds < 2:
        raise PreferenceError(f"{m} votes, rounds={rounds}: a bootstrap needs 1 vote and 2 rounds")
    cluster = votes.clusters()
    prompts = int(cluster.max()) + 1
    random = np.random.default_rng(seed)
    start = _ascend(votes.wins()[None], l2, np.zeros((1, k)))
    found = np.empty((rounds, k))
    size = max(1, _CHUNK // (k * k))
    for first in range(0, rounds, size):
        number = min(size, rounds - first)
        tables = np.empty((number, k, k))
        for i in range(number):
            drawn = np.bincount(random.integers(prompts, size=prompts), minlength=prompts)
            tables[i] = votes.wins(drawn[cluster])
        found[first : first + number] = _ascend(tables, l2, np.repeat(start, number, axis=0))
    return found


def leaderboard(
    votes: Votes,
    *,
    seed: int,
    rounds: int = ROUNDS,
    level: float = 0.95,
    least_votes: float = LEAST_VOTES,
    l2: float = L2,
) -> tuple[Row, ...]:
    """Every arm with its intervals, the ranked first, by falling strength.

    Args:
        votes: at least one.
        seed: of the bootstrap.
        rounds: of the bootstrap.
        level: of the two-sided percentile intervals, each arm by itself.
        least_votes: arms with less are reported at the end, without rank.
        l2: as for :func:`fit`.

    Raises:
        PreferenceError: There are no votes, or ``level`` is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise PreferenceError(f"level={level}: give a number between 0 and 1")
    best = fit(votes, l2=l2)
    drawn = bootstrap(votes, seed=seed, rounds=rounds, l2=l2)
    ends = [0.5 - level / 2, 0.5 + level / 2]
    low, high = np.quantile(drawn, ends, axis=0)
    chances = np.array([against_average(one, best.votes) for one in drawn])
    win_low, win_high = np.quantile(chances, ends, axis=0)
    ranked = best.votes >= least_votes
    win = best.win_probability
    rows: list[Row] = []
    for place, i in enumerate(np.lexsort((-best.strength, ~ranked)).tolist(), start=1):
        ahead = int((ranked & (low > high[i])).sum())
        rows.append(
            Row(
                arm=best.arms[i],
                rank=place if ranked[i] else None,
                best_rank=1 + ahead if ranked[i] else None,
                strength=float(best.strength[i]),
                low=float(low[i]),
                high=float(high[i]),
                win_probability=float(win[i]),
                win_low=float(win_low[i]),
                win_high=float(win_high[i]),
                votes=float(best.votes[i]),
                group=int(best.group[i]),
            )
        )
    return tuple(rows)


def pairwise_chance(strength: Floats) -> Floats:
    """Chance that row is preferred to column, ``(…, K, K)`` from strengths ``(…, K)``."""
    gap = strength[..., :, None] - strength[..., None, :]
    return np.asarray(0.5 * (1.0 + np.tanh(gap / 2.0)))


def against_average(strength: Floats, votes: Floats) -> Floats:
    """Each arm's mean chance over all other arms that have votes, shape ``(K,)``; ½ with none."""
    opponents = _opponents(votes)
    number = opponents.sum(axis=1)
    total = (pairwise_chance(strength) * opponents).sum(axis=1)
    return np.where(number > 0.0, total / np.maximum(number, 1.0), 0.5)


def _opponents(votes: Floats) -> Floats:
    """1 where column is an opponent of row."""
    mask = np.tile((votes > 0.0).astype(np.float64), (len(votes), 1))
    np.fill_diagonal(mask, 0.0)
    return mask


def _ascend(tables: Floats, l2: float, start: Floats) -> Floats:
    """Newton with step halving on a batch of concave log-likelihoods: ``(B, K, K)`` → ``(B, K)``.

    Each step moves every member of the batch that still gains by it, so a member's result does not
    depend on the others.
    """
    if not 0.0 < l2 < np.inf:
        raise PreferenceError(f"l2={l2}: give a finite number above 0")
    games = tables + tables.transpose(0, 2, 1)
    enough = _TOLERANCE * np.maximum(1.0, games.sum(axis=2).max(axis=1))
    theta, value = start, _likelihood(tables, start, l2)
    for _ in range(_STEPS):
        chance = pairwise_chance(theta)
        slope = (tables - games * chance).sum(axis=2) - l2 * theta
        open_ = np.abs(slope).max(axis=1) > enough
        if not open_.any():
            return theta
        curvature = _curvature(games * chance * (1.0 - chance), l2)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0] * open_[:, None]
        theta, value = _halve(tables, l2, theta, step, value)
    raise PreferenceError(f"no convergence in {_STEPS} steps with l2={l2}: raise l2")


def _halve(
    tables: Floats, l2: float, theta: Floats, step: Floats, value: Floats
) -> tuple[Floats, Floats]:
    """Take each member's step, halved until its likelihood does not fall."""
    for _ in range(_HALVINGS):
        moved = theta + step
        gained = _likelihood(tables, moved, l2)
        # Near the top a gain is smaller than the rounding of the sum.
        worse = gained < value - 1e-12 * np.maximum(1.0, np.abs(value))
        if not worse.any():
            return moved, gained
        step = np.where(worse[:, None], step / 2.0, step)
    return theta, value


def _likelihood(tables: Floats, theta: Floats, l2: float) -> Floats:
    gap = theta[:, :, None] - theta[:, None, :]
    penalty = l2 / 2.0 * np.square(theta).sum(axis=1)
    return np.asarray(-(tables * np.logaddexp(0.0, -gap)).sum(axis=(1, 2)) - penalty)


def _curvature(weight: Floats, l2: float) -> Floats:
    """Minus the second derivative, ``(B, K, K)``, from the pairs' ``n p (1 − p)``."""
    found: Floats = -weight
    rows = np.arange(weight.shape[1])
    found[:, rows, rows] += weight.sum(axis=2) + l2
    return found


def _groups(met: NDArray[np.bool_]) -> Integers:
    """The lowest number among the arms that each arm is connected with, shape ``(K,)``."""
    k = len(met)
    group: Integers = np.arange(k)
    joined = met | np.eye(k, dtype=np.bool_)
    for _ in range(k):
        lower = np.where(joined, group[None, :], k).min(axis=1)
        if (lower == group).all():
            break
        group = lower
    return group
