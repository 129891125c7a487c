"""A second look at the tools that rank first, for tools that many queries have succeeded with.

It reorders the five best by a linear score of four numbers: the first score, the similarity to the
nearest query that succeeded, the mean of the three nearest, and how many there are. Where
outcomes are thin such a step does harm (arXiv:2603.13426 finds the same), so only tools with many
of them change places among themselves: all others stay exactly where they rank. It needs the
queries that succeeded at hand, so it costs a product with those of five tools beside that with all.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels import tools_ranking as ranking
from kernels.tools import LEAST, Outcomes, Refined, pairs_of_outcomes
from kernels.tools_moves import moves_of
from kernels.tools_ranking import DEPTH, Flags, Floats, Ints, Pairs

NUMBERS = 4
"""What the linear score is of."""
DENSE = 10
"""Successes from which a tool's places may change."""
EXAMPLES = 50
"""Queries that are kept of each tool at most: its last ones."""
MAX_EXAMPLES = 32_768
"""Queries that are kept of all tools together: 50 MB of 384 numbers each."""
LEAST_GAIN = 0.01
"""Of NDCG@5 on rows that were not learnt from, without which there is no second look."""
NEAREST = 3
STEPS, RATE, RIDGE = 200, 2.0, 1e-3
PART = 1_024
"""Queries that are looked at together: their similarities to all examples take memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Reranker:
    """Reorders the first tools.

    Args:
        examples: ``(e, d)``, queries that succeeded.
        query: ``(e,)``, which query of the outcomes each is.
        places: ``(t, k)``, rows of ``examples`` of each tool; -1 where there are fewer.
        many: ``(t,)``, successes of each tool.
        weights: ``(4,)``, of the four numbers as they come.
        gain: mean NDCG@5 won on rows that were not learnt from.
    """

    examples: Floats
    query: Ints
    places: Ints
    many: Ints
    weights: Floats
    gain: float

    def order(self, refined: Refined, queries: Floats) -> Ints:
        """All tools for each query, best first: ``(n, t)``; the first five are looked at again.

        Args:
            refined: what this was learnt for.
            queries: ``(n, d)``.
        """
        order = refined.order(queries)
        first = order[:, :DEPTH]
        scores = refined.scores(queries)
        numbers = self.numbers(queries, scores, first, np.full(len(queries), -1))
        order[:, :DEPTH] = reorder(first, numbers @ self.weights, self._movable(refined)[first])
        return order

    def only(self, rows: Ints) -> "Reranker":
        """The same for some of the tools: those of ``rows``, in their order."""
        return replace(self, places=self.places[rows], many=self.many[rows])

    def _movable(self, refined: Refined) -> Flags:
        return refined.refined & (self.many >= DENSE)

    def numbers(self, queries: Floats, scores: Floats, first: Ints, own: Ints) -> Floats:
        """What the linear score is of: ``(n, 5, 4)``; no query is an example of itself."""
        found = np.zeros((*first.shape, NUMBERS), np.float32)
        found[..., 0] = np.take_along_axis(scores, first, axis=1)
        found[..., 3] = np.log1p(self.many[first])
        for start in range(0, len(queries), PART):
            rows = slice(start, start + PART)
            near = self._near(queries[rows], first[rows], own[rows])
            found[rows, :, 1] = near[..., 0]
            found[rows, :, 2] = near.mean(axis=2)
        return found

    def _near(self, queries: Floats, first: Ints, own: Ints) -> Floats:
        """Similarities ``(n, 5, 3)`` to the nearest examples; 0 where there are fewer."""
        places = self.places[first]
        # Of one query's first tools these are few; of many queries', all.
        needed, at = np.unique(places, return_inverse=True)
        alike = queries @ self.examples[needed].T
        told = alike[np.arange(len(queries))[:, None, None], at.reshape(places.shape)]
        known = (places >= 0) & (self.query[places] != own[:, None, None])
        told = np.where(known, told, 0.0)
        width = min(NEAREST, told.shape[2])
        found: Floats = -np.sort(-told, axis=2)[..., :width]
        return found


def fit(
    tools: Floats, outcomes: Outcomes, refined: Refined, *, least: int = LEAST
) -> Reranker | None:
    """Learn a second look, or None where outcomes are too thin for one to help.

    Each query is ranked by vectors and beside examples that leave it out. One half of the
    rows teaches the weights that the other half judges; what is returned has learnt from both.

    Args:
        tools: ``(t, d)``, vectors of descriptions.
        outcomes: what they were refined by.
        refined: what came of it.
        least: as it was refined with.
    """
    pairs, failed = pairs_of_outcomes(tools, outcomes)
    many = np.bincount(pairs.tool, minlength=len(tools))
    if (many >= DENSE).sum() < 2:
        return None
    moves = moves_of(tools, outcomes.queries, pairs, failed, many >= least)
    scores = moves.left_out(pairs, (refined.pull, refined.push)) + refined.favours
    first = ranking.placed(pairs.base, scores, refined.refined)[:, :DEPTH]
    blank = _blank(pairs, many)
    numbers = blank.numbers(pairs.vectors, scores, first, pairs.query)
    right = first == pairs.tool[:, None]
    movable = (refined.refined & (many >= DENSE))[first]
    gain = _gain(numbers, right, first, movable, pairs.query % 2 == 0)
    if gain < LEAST_GAIN:
        return None
    weights = _learn(numbers, right, movable)
    return Reranker(blank.examples, blank.query, blank.places, many, weights, gain)


def reorder(first: Ints, told: Floats, movable: Flags) -> Ints:
    """Movable tools in the order of ``told`` on the places that movable tools held."""
    held = np.where(movable, np.arange(first.shape[1]), first.shape[1])
    places = np.sort(held, axis=1)
    best = np.argsort(np.where(movable, -told, np.inf), axis=1, kind="stable")
    found = np.concatenate([first, np.zeros((len(first), 1), np.int64)], axis=1)
    moved = np.take_along_axis(first, best, axis=1)
    np.put_along_axis(found, places, moved, axis=1)
    kept: Ints = found[:, : first.shape[1]]
    return kept


def _blank(pairs: Pairs, many: Ints) -> Reranker:
    """Examples of tools with many successes, before there are weights."""
    most = min(EXAMPLES, MAX_EXAMPLES // int((many >= DENSE).sum()))
    rows = [np.flatnonzero(pairs.tool == tool)[-most:] for tool in range(len(many))]
    kept = [row if many[tool] >= DENSE else row[:0] for tool, row in enumerate(rows)]
    width = max(NEAREST, *(len(row) for row in kept))
    places = np.full((len(many), width), -1)
    start = 0
    for tool, row in enumerate(kept):
        places[tool, : len(row)] = np.arange(start, start + len(row))
        start += len(row)
    every = np.concatenate(kept)
    zeros = np.zeros(NUMBERS, np.float32)
    return Reranker(pairs.vectors[every], pairs.query[every], places, many, zeros, 0.0)


def _learn(numbers: Floats, right: Flags, movable: Flags) -> Floats:
    """Weights ``(4,)`` of a conditional logit (McFadden 1974) among the movable tools of a row."""
    use = (right & movable).any(axis=1)
    x, told, moves = numbers[use], right[use], movable[use]
    if not use.any():
        return np.zeros(numbers.shape[2], np.float32)
    centre, scale = x[moves].mean(axis=0), x[moves].std(axis=0) + 1e-6
    x = (x - centre) / scale
    weights = np.zeros(x.shape[2])
    for _ in range(STEPS):
        chance = _chances(np.where(moves, x @ weights, -np.inf))
        slope = np.einsum("nkf,nk->f", x, chance - told) / len(x) + RIDGE * weights
        weights -= RATE * slope
    found: Floats = (weights / scale).astype(np.float32)
    return found


def _chances(told: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(told - told.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return found


def _gain(numbers: Floats, right: Flags, first: Ints, movable: Flags, half: Flags) -> float:
    """Mean NDCG@5 that each half wins by the weights that the other half taught."""
    worth = 1.0 / np.log2(np.arange(first.shape[1]) + 2.0)
    tool = np.where(right, first, -1).max(axis=1)
    won = np.zeros(len(first))
    for judged in (half, ~half):
        weights = _learn(numbers[~judged], right[~judged], movable[~judged])
        order = reorder(first[judged], numbers[judged] @ weights, movable[judged])
        after = (order == tool[judged][:, None]) @ worth
        won[judged] = after - right[judged] @ worth
    return float(won.mean())
