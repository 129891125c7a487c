"""A rival: GreenServ's router, a disjoint LinUCB over three one-hot features of a request.

Written from its paper (Ziller et al. 2026, arXiv:2601.17551) and the parameters of its released
experiments (github.com/TZData1/llm-inference-router at 03737a00, ``experiments/config``): α 0.1,
A = 0.05 · I at first, 9 semantic clusters, 3 bins of complexity. An arm's score is
``θᵀx + α · sqrt(xᵀ A⁻¹ x)``, the first of the best is chosen; rewards are not centred, arms share
nothing.

What a replayed table does not hold is replaced by the nearest that it does:

* the task type is the domain (their experiments read it from the dataset's name too);
* clusters are of the hashed words instead of a sentence encoder's embedding, by k-means on the
  first requests, as many as are probes, instead of centroids that move all along;
* complexity is the text's length in three bins, even over the same requests, instead of bins of
  the Flesch reading ease;
* the reward is what all routers here are paid, instead of (1 - λ) · accuracy + λ · (1 - energy);
* no latency limit leaves arms out.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from bench.rivals import domain_codes
from controlplane.replay_loop import Course

ALPHA = 0.1
REGULARISATION = 0.05
CLUSTERS = 9
BINS = 3
SEEN_FIRST = 200
"""Requests, without their rewards, that clusters and bins are made from."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def make(course: Course, seed: int) -> "GreenServ":
    """The router over a table."""
    train = course.train
    # The order in which the rivals are replayed: these are the first that it meets.
    first = np.random.default_rng(seed).permutation(len(train.x))[:SEEN_FIRST]
    context = Context(course, train.x[first], seed)
    domains = domain_codes(course, train.domains, len(train.x))
    return GreenServ(context, len(course.arms), context.active(train.x, domains))


class Context:
    """Which entries of a request's context vector are 1: one of each feature that there is."""

    def __init__(self, course: Course, first: Floats, seed: int) -> None:
        """Make clusters and bins from the first requests."""
        self._tasks = 1 + len(set(course.train.domains or ()))
        self._terms, self._chars = (_columns(course, name) for name in ("terms", "chars"))
        self._centres = np.zeros((1, len(first[0, self._terms])))
        if self._centres.shape[1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fewer clusters than asked for are fine
                random = np.random.default_rng(seed)
                words = first[:, self._terms]
                self._centres = kmeans2(words, CLUSTERS, minit="++", rng=random)[0]
        self._edges = np.zeros(0)
        if len(first[0, self._chars]):
            shares = np.arange(1, BINS) / BINS
            self._edges = np.quantile(first[:, self._chars], shares)

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return self._tasks + len(self._centres) + len(self._edges) + 1

    def active(self, x: Floats, domains: Integers) -> Integers:
        """The places of the three ones of each request, shape ``(n, 3)``."""
        words = x[:, self._terms]
        apart = np.square(self._centres).sum(axis=1) - 2.0 * words @ self._centres.T
        length = x[:, self._chars].sum(axis=1)
        places = (
            domains,
            self._tasks + apart.argmin(axis=1),
            self._tasks + len(self._centres) + np.searchsorted(self._edges, length),
        )
        return np.column_stack(places)


def _columns(course: Course, name: str) -> slice:
    """Where a feature's columns are; none if it is not there."""
    start = 1
    for feature in course.schema.features:
        if feature.name == name:
            return slice(start, start + feature.width)
        start += feature.width
    return slice(0, 0)


class GreenServ:
    """LinUCB, an arm each; contexts are given by the places of their ones."""

    def __init__(self, context: Context, arms: int, active: Integers) -> None:
        """Nothing learnt yet; ``active`` are the requests that it will be told of by row."""
        self._context = context
        self._active = active
        self._inverse = np.stack([np.eye(context.size) / REGULARISATION] * arms)
        self._sums = np.zeros((arms, context.size))
        self._weights = np.zeros((arms, context.size))

    def choose(self, row: int) -> int:
        """The arm of the highest bound for the request of that row; the first of equals."""
        ones = self._active[row]
        width = self._inverse[:, ones][:, :, ones].sum(axis=(1, 2))
        return int(np.argmax(self._weights[:, ones].sum(axis=1) + ALPHA * np.sqrt(width)))

    def update(self, row: int, arm: int, reward: float) -> None:
        """What the arm earned there: a rank-one change of its inverse (Sherman & Morrison)."""
        ones, inverse = self._active[row], self._inverse[arm]
        turned = inverse[:, ones].sum(axis=1)
        inverse -= np.outer(turned, turned) / (1.0 + turned[ones].sum())
        self._sums[arm, ones] += reward
        self._weights[arm] = inverse @ self._sums[arm]

    def choices(self, x: Floats, domains: Integers) -> Integers:
        """The arms of the highest estimate, without the bonus."""
        ones = self._context.active(x, domains)
        return np.asarray(self._weights[:, ones].sum(axis=2).argmax(axis=0), dtype=np.int64)
