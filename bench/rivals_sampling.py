"""A rival: what the vLLM Semantic Router calls ``routing_sampling``, by its own formula.

Written from its design (``Routing Sampling`` of its proposal on Router Learning) and from what its
router does (github.com/vllm-project/semantic-router at 0ed7f5bb,
``src/semantic-router/pkg/extproc/router_learning_adaptation.go``; outcomes in
``router_learning_runtime.go``)::

    alpha = 2 · quality + good + 1        beta = 2 · (1 - quality) + poor + 1
    score = Beta(alpha, beta) - 0.04 · price / highest price (+ 0.001 for the base model)

and the best score is chosen, if it beats the base model's by what it costs more. It is kept as it
is, for comparison only:

* an outcome is good or poor; how good is not counted;
* a domain's own counts replace those of all domains from its first outcome on, instead of being
  shrunk to them, so each domain starts anew from even odds;
* the configured quality of a model is dropped, for 1/2, at its first outcome;
* nothing is ever forgotten, a changed model keeps the counts of the old one, and the price is
  charged twice where the base model is cheaper;
* each draw is seeded by the clock and its probability is not known, so no log of it can be judged
  off-policy.

Left out, as the replayed tables hold no such thing: latency, cache, failures, overuse, sessions.
Where its protection would hold exploration back it is given the benefit of drawing always.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.replay_loop import Course

GOOD_FROM = 0.5
"""A reward from which an outcome counts as a good fit."""

_PRIOR_WEIGHT = 2.0
_EVEN = 0.5
_PRICE_WEIGHT = 0.04
_BASE_BONUS = 0.001


def make(course: Course, seed: int) -> "Replayed":
    """The router over a table; a mean cost on the training side stands for a model's price."""
    prices = course.train.costs_usd.mean(axis=0).tolist()
    names = sorted(set(course.train.domains or ()))
    return Replayed(RoutingSampling(len(course.arms), names, seed, prices=prices), course, seed)


class Replayed:
    """The router, told of requests by their rows."""

    def __init__(self, router: "RoutingSampling", course: Course, seed: int) -> None:
        """Nothing seen yet."""
        self._router = router
        self._domains = course.train.domains
        self._names = sorted(set(course.train.domains or ()))
        self._chances = np.random.default_rng(seed).random(len(course.train.x)).tolist()

    def choose(self, row: int) -> int:
        """The arm for the request of that row of the training side."""
        return self._router.choose(self._domain(row), self._chances[row])

    def update(self, row: int, arm: int, reward: float) -> None:
        """What the arm earned there."""
        self._router.update(self._domain(row), arm, reward)

    def choices(
        self,
        x: NDArray[np.float64],  # noqa: ARG002 -- it sees the domain alone
        domains: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The arms that it settles on; domains are numbers in the order of their sorted names."""
        best = [self._router.best(name) for name in (*self._names, None)]
        return np.array(best, dtype=np.int64)[domains]

    def _domain(self, row: int) -> str | None:
        return None if self._domains is None else self._domains[row]


@dataclass(slots=True)
class _Counts:
    good: int = 0
    poor: int = 0


class RoutingSampling:
    """One pass of the router over a replayed table.

    Args:
        arms: how many models there are.
        domains: the names of its decisions; any other shares the counts of all.
        seed: of the draws.
        prices: of each model, in any one unit; none: no price is charged.
        quality: the configured quality of each model, 0 for not configured; none: of no model.
        base: the model that its recipe names first.
    """

    def __init__(
        self,
        arms: int,
        domains: Sequence[str] = (),
        seed: int = 0,
        *,
        prices: Sequence[float] | None = None,
        quality: Sequence[float] | None = None,
        base: int = 0,
    ) -> None:
        """Nothing seen yet."""
        self._domains = frozenset(domains)
        self._seed = seed
        self._base = base
        self._quality = [0.0] * arms if quality is None else list(quality)
        top = max(prices, default=0.0) if prices is not None else 0.0
        shares = [0.0] * arms if prices is None or top <= 0 else [p / top for p in prices]
        self._charge = [_PRICE_WEIGHT * min(max(share, 0.0), 1.0) for share in shares]
        self._counts: dict[tuple[str | None, int], _Counts] = {}

    def choose(self, x_domain: str | None, u: float) -> int:
        """The model for a request of this domain; ``u`` in [0, 1) is the chance of the draw."""
        random = np.random.default_rng([self._seed, int(u * 2**53)])
        return self._winner(
            [float(random.beta(*self._odds(x_domain, arm))) for arm in range(len(self._charge))]
        )

    def update(self, domain: str | None, arm: int, reward01: float) -> None:
        """Count an outcome, for its domain and for all."""
        for key in {(self._key(domain), arm), (None, arm)}:
            counts = self._counts.setdefault(key, _Counts())
            if reward01 >= GOOD_FROM:
                counts.good += 1
            else:
                counts.poor += 1

    def best(self, domain: str | None) -> int:
        """The model that it settles on: by means, as where its protection forbids exploring."""
        odds = [self._odds(domain, arm) for arm in range(len(self._charge))]
        return self._winner([good / (good + poor) for good, poor in odds])

    def _key(self, domain: str | None) -> str | None:
        return domain if domain in self._domains else None

    def _odds(self, domain: str | None, arm: int) -> tuple[float, float]:
        """Alpha and beta, of the domain's counts if there is any and else of all domains'."""
        counts = self._counts.get((self._key(domain), arm)) or self._counts.get((None, arm))
        counts = counts or _Counts()
        configured = self._quality[arm] > 0 and counts.good + counts.poor == 0
        quality = min(self._quality[arm], 1.0) if configured else _EVEN
        return (
            _PRIOR_WEIGHT * quality + counts.good + 1.0,
            _PRIOR_WEIGHT * (1.0 - quality) + counts.poor + 1.0,
        )

    def _winner(self, predicted: Sequence[float]) -> int:
        scores = [value - charge for value, charge in zip(predicted, self._charge, strict=True)]
        scores[self._base] += _BASE_BONUS
        first = int(np.argmax(scores))
        dearer = max(self._charge[first] - self._charge[self._base], 0.0)
        return first if scores[first] >= scores[self._base] + dearer else self._base
