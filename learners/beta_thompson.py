"""Beta-Thompson sampling with a seeded prior, that backs off from domain to arm to pool.

Each choice is the best of one draw of every arm's chance of success (Thompson 1933; Chapelle & Li
2011). A frozen policy holds ``members`` such draws; one of them, drawn evenly, decides. So an arm's
probability is its share of the members' votes, known exactly. The draws are new with each revision.

*Rewards* outside [0, 1] are scaled by their range, which is ``low`` to ``high`` if given and else
the least and the greatest reward so far, and count as that part of a success. The sums are kept
unscaled, so learning in pieces equals learning at once. A reward that varies less than a coin of
its mean tells more than a toss: the counts are raised by that ratio, which is 1 for 0 and 1.

*Back-off.* A domain's prior for an arm is what the arm does everywhere and the domain does to every
arm. Its strength follows from the variance between the domains (:mod:`learners.two_way`): infinite
where they do not differ. An arm's prior is its seed, or else the pool's mean. Draws follow the
hierarchy: first the arm, then each domain given the arm.

*Forgetting.* With ``half_life`` older rows count less (Raj & Kalyani 2017, arXiv:1707.09727).
Without it any order of the log gives the same state too.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.arm_sums import ArmSums
from learners.contract import Params, Promise, Spec, check
from learners.domains import DOMAIN, Domains, domains_of
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.records import MAX_ABS_REWARD
from learners.schedule import EXPLORATION_PARAMS, Moments, at_least, checked_params, explore
from learners.scorers.ensemble import Ensemble
from learners.two_way import TwoWay, fit

NAME = "beta_thompson"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "votes",
    "domain": DOMAIN,
    "members": 64,
    "prior": 0.5,
    "prior_strength": 2.0,
    "seeds": "{}",
    "domain_strength": 0.0,
    "half_life": 0.0,
    "low": 0.0,
    "high": 0.0,
    "max_importance": 1.0,
}
"""``members``: draws in a frozen policy. ``prior``: the pool's mean before any reward, as a part of
the range; ``prior_strength``: interactions that it counts for, as an arm's own prior does.
``seeds``: JSON of arms' own prior means, as parts of the range. ``domain_strength``: interactions
that an arm's mean counts for in each domain; 0: fitted. ``half_life``: interactions of all arms
after which one counts for half; 0: never. ``low``, ``high``: the reward's range; alike: as seen.
``max_importance``: cap on ``1 / propensity``; 1: the propensity is not used."""

PROMISES: frozenset[Promise] = frozenset({"batch"})

MAX_MEMBERS = 1024
MAX_ENTRIES = 6 * 2**20
"""Members × arms × columns: what still fits a bundle of 64 MiB."""

_LEAST = {
    "members": 1.0,
    "prior": 1e-6,
    "prior_strength": 1e-3,
    "domain_strength": 0.0,
    "half_life": 0.0,
    "low": -MAX_ABS_REWARD,
    "high": -MAX_ABS_REWARD,
    "max_importance": 1.0,
}
_EDGE = 1e-6
"""A chance of success is kept this far from 0 and from 1."""
_CERTAIN = 1e9
"""A strength from which a domain adds nothing to an arm."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm earned in each domain.

    Attributes:
        rows: interactions that had a weight; with the seed it decides the draws.
        low: the least reward so far, 0 before any.
        high: the greatest.
    """

    spec: Spec
    params: dict[str, Any]
    domains: Domains
    sums: ArmSums
    moments: Moments
    rows: int = 0
    low: float = 0.0
    high: float = 0.0


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the members would be too large.
    """
    params = checked_params(NAME, PARAMS, spec.params, _LEAST)
    _seeds(params)
    if params["prior"] > 1 - _EDGE:
        raise SpecError(f"{NAME}.prior is {params['prior']}: give a number between 0 and 1")
    if params["members"] > MAX_MEMBERS:
        raise SpecError(f"{NAME}.members is {params['members']}: give at most {MAX_MEMBERS}")
    if params["low"] > params["high"]:
        raise SpecError(f"{NAME}.low {params['low']} is above high {params['high']}: swap them")
    domains = domains_of(spec.schema, str(params["domain"]))
    entries = params["members"] * len(spec.arms) * spec.schema.dimension
    if entries > MAX_ENTRIES:
        raise SpecError(
            f"{entries} weights of members × arms × columns: at most {MAX_ENTRIES} are allowed; "
            "give fewer members or features"
        )
    return State(spec, params, domains, ArmSums.empty(len(spec.arms), domains.groups), Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to the sums, after those before have faded."""
    check(state.spec, interactions)
    told = interactions.reward[interactions.weight > 0]
    if not len(told):
        return state
    params, reward = state.params, None
    if params["low"] < params["high"]:
        reward = np.clip(interactions.reward, params["low"], params["high"])
    sums = state.sums.add(
        interactions,
        state.domains.of(interactions.x),
        float(params["max_importance"]),
        float(params["half_life"]),
        reward,
    )
    low, high = float(told.min()), float(told.max())
    return replace(
        state,
        sums=sums,
        moments=state.moments.add(interactions),
        rows=state.rows + len(told),
        low=min(low, state.low) if state.rows else low,
        high=max(high, state.high) if state.rows else high,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What is drawn from; chances of success, parts of the reward's range.

    Attributes:
        arm: each arm's mean chance, shape ``(K,)``, and ``strength`` what it counts for: together
            a Beta distribution.
        expected: each cell's prior mean while the arm's chance is at its mean, shape ``(K, G)``.
        count: interactions of each cell, shape ``(K, G)``.
        mean: their mean, shape ``(K, G)``.
        domain_strength: what the prior mean counts for in a cell.
    """

    arm: Floats
    strength: Floats
    expected: Floats
    count: Floats
    mean: Floats
    domain_strength: float

    def draw(self, arm: int, members: int, random: np.random.Generator) -> Floats:
        """Chances of one arm, shape ``(members, G)``; their mean is the posterior's.

        Their own mean would be off by the luck of the draws, and a greedy choice goes by the mean.
        """
        found = self._drawn(arm, members, random)
        backed, count = self.domain_strength, self.count[arm]
        share = 0.0 if backed >= _CERTAIN else count / (backed + count)
        exact = self.expected[arm] + share * (self.mean[arm] - self.expected[arm])
        moved: Floats = found + (exact - found.mean(axis=0))
        return moved

    def _drawn(self, arm: int, members: int, random: np.random.Generator) -> Floats:
        mean, strength = self.arm[arm], self.strength[arm]
        level = random.beta(strength * mean, strength * (1 - mean), size=members)
        prior: Floats = np.clip(self.expected[arm] + (level - mean)[:, None], _EDGE, 1 - _EDGE)
        if self.domain_strength >= _CERTAIN:
            return prior
        own = self.count[arm] * self.mean[arm]
        other = self.count[arm] * (1 - self.mean[arm])
        found: Floats = random.beta(
            self.domain_strength * prior + own, self.domain_strength * (1 - prior) + other
        )
        return found


def posterior(state: State) -> Posterior:
    """What the sums and the prior say together."""
    params, strength = state.params, float(state.params["prior_strength"])
    count, mean, noise = _scaled(state)
    rows = float(count.sum())
    pool = (strength * params["prior"] + float((count * mean).sum())) / (strength + rows)
    seeds = _seeds(params)
    prior = np.array([seeds.get(arm, pool) for arm in state.spec.arms])
    found = fit(np.where(count > 0, mean - prior[:, None], 0.0), count, noise, strength)
    backed = _domain_strength(state, found, noise)
    expected = prior[:, None] + found.effects
    share = count.sum(axis=0) / rows if rows > 0 else np.full(count.shape[1], 1 / count.shape[1])
    return Posterior(
        arm=np.clip(expected @ share, _EDGE, 1 - _EDGE),
        # An arm's domains differ, so many interactions in one say less than as many in several.
        strength=strength + (count / (1 + count / (backed + 1))).sum(axis=1),
        expected=expected,
        count=count,
        mean=mean,
        domain_strength=backed,
    )


def _scaled(state: State) -> tuple[Floats, Floats, float]:
    """Each cell's interactions and their mean as parts of the range, and a toss's variance."""
    cells, params = state.sums.cells(), state.params
    start = params["prior_strength"] * params["prior"] * (1 - params["prior"])
    # An importance-weighted sum is worth its effective number, a faded one what is left of it.
    count = np.minimum(cells.count, cells.total)
    low, width = _range(state)
    if width > 0:
        mean = np.clip((cells.mean - low) / width, 0.0, 1.0)
        variance = cells.variance / width**2
    else:
        # All rewards are alike: they can not be told good or bad, each counts as a toss.
        mean = np.full(count.shape, params["prior"])
        variance = mean * (1 - mean)
    total = count.sum(axis=1)
    arm = (count * mean).sum(axis=1) / np.where(total > 0, total, 1.0)
    toss = float((total * arm * (1 - arm)).sum())
    varies = float((count * (variance + np.square(mean - arm[:, None]))).sum())
    noise = max((toss + start) / (float(total.sum()) + params["prior_strength"]), _EDGE)
    return count * (toss + start) / (min(varies, toss) + start), mean, noise


def _range(state: State) -> tuple[float, float]:
    """Where the reward's range begins, and its width: 0 while none is known."""
    low, high = float(state.params["low"]), float(state.params["high"])
    if low >= high:
        low, high = state.low, state.high
    return low, high - low


def _domain_strength(state: State, found: TwoWay, noise: float) -> float:
    given = float(state.params["domain_strength"])
    if state.domains.groups == 1:
        return _CERTAIN
    if given > 0:
        return given
    if found.between <= noise / _CERTAIN:
        return _CERTAIN
    # A Beta of strength s about p varies by p (1 - p) / (s + 1).
    return max(noise / found.between - 1, 0.5)


def freeze(state: State) -> Ensemble:
    """Draws of each arm's chance in each domain, back in the unit of the reward."""
    members, spec = int(state.params["members"]), state.spec
    low, width = _range(state)
    chances: Floats = np.full(
        (members, len(spec.arms), state.domains.groups), state.params["prior"]
    )
    if state.rows or _seeds(state.params):
        found = posterior(state)
        for i, arm in enumerate(spec.arms):
            # Of its own, so that an arm's draws stay as they are when others join or leave.
            random = np.random.default_rng([spec.seed % 2**63, state.rows, _number(arm)])
            chances[:, i] = found.draw(i, members, random)
    weights = state.domains.weights(low + (width or 1.0) * chances, spec.schema.dimension)
    return Ensemble(spec.arms, weights, explore(state.params, state.moments))


def _number(arm: str) -> int:
    return int.from_bytes(hashlib.sha256(arm.encode()).digest()[:8], "big")


def _seeds(params: dict[str, Any]) -> dict[str, float]:
    """Arms' own prior means; arms that are not in the pool may be named, as they may join."""
    try:
        seeds = json.loads(params["seeds"])
        found = {str(arm): float(mean) for arm, mean in seeds.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f'{NAME}.seeds is {params["seeds"]!r:.80}: give JSON as {{"arm": 0.7}}'
        ) from error
    for arm, mean in found.items():
        at_least(NAME, {f"seeds.{arm}": mean}, {f"seeds.{arm}": _EDGE})
        if mean > 1 - _EDGE:
            raise SpecError(f"{NAME}.seeds.{arm} is {mean}: give a number between 0 and 1")
    return found


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; one whose model is another starts from its prior."""
    return replace(
        init(spec),
        sums=state.sums.rearmed(state.spec, spec),
        moments=state.moments,
        rows=state.rows,
        low=state.low,
        high=state.high,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    numbers = {
        "moments": state.moments.as_json(),
        "rows": state.rows,
        "low": state.low,
        "high": state.high,
    }
    return files.pack(
        files.owner(NAME, state.spec, state.params), numbers, {"sums": state.sums.values}
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    moments = Moments(**numbers.pop("moments"))
    return replace(state, moments=moments, sums=ArmSums(tensors["sums"]), **numbers)
