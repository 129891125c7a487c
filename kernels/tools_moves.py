"""What moves the vectors of tools: successes pull, failures and the queries of rivals push.

A query that succeeded with one tool and lies near to another is not known to fail there, yet is the
best guess of what would (hard negatives, as in Robinson et al. 2021): the nearest ones of
others, as many as a tool's own, push it along with the failures that were seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kernels import tools_ranking as ranking
from kernels.tools_ranking import Flags, Floats, Ints, Pairs

Step = tuple[float, float]
"""Pull: how many queries a description weighs as much as. Push: what the mean of the queries that
push weighs beside the sum of those that pull."""
FIRST_PULL = 3.0
"""Before rivals are known, by which they are found."""
LEAST_RIVALS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Sums of queries by tool.

    Args:
        tools: ``(t, d)``, vectors of descriptions.
        queries: ``(n, d)``.
        pulls: ``(t, d)``, the sums of the queries that pull.
        pushes: ``(t, d)``, the sums of those that push.
        many: ``(t,)``, how many those are.
        pushing: query and tool of each that pushes, sorted by query.
        enough: ``(t,)``, which tools have enough successes to move.
    """

    tools: Floats
    queries: Floats
    pulls: Floats
    pushes: Floats
    many: Floats
    pushing: tuple[Ints, Ints]
    enough: Flags

    def vectors(self, step: Step) -> Floats:
        """Vectors ``(t, d)``; tools without enough outcomes keep their descriptions'."""
        every = np.arange(len(self.tools))
        return self._moved(every, self.pulls, self.pushes, self.many, step)

    def left_out(self, pairs: Pairs, step: Step) -> Floats:
        """Scores ``(m, t)`` of the successes, each left out of all that it moves."""
        scores: Floats = pairs.vectors @ self.vectors(step).T
        own, x = pairs.tool, pairs.vectors
        fewer = self.pulls[own] - x
        vectors = self._moved(own, fewer, self.pushes[own], self.many[own], step)
        scores[np.arange(len(own)), own] = np.einsum("md,md->m", vectors, x)
        row, tool = _joined(pairs.query, self.pushing)
        fewer = self.pushes[tool] - x[row]
        vectors = self._moved(tool, self.pulls[tool], fewer, self.many[tool] - 1, step)
        scores[row, tool] = np.einsum("md,md->m", vectors, x[row])
        return scores

    def _moved(self, tool: Ints, pulls: Floats, pushes: Floats, many: Floats, step: Step) -> Floats:
        pull, push = step
        weight = push * np.linalg.norm(pulls, axis=1) / np.maximum(many, 1.0)
        moved = ranking.unit(pull * self.tools[tool] + pulls - weight[:, None] * pushes)
        found: Floats = np.where(self.enough[tool][:, None], moved, self.tools[tool])
        return found.astype(np.float32)


def moves_of(
    tools: Floats, queries: Floats, pairs: Pairs, failed: tuple[Ints, Ints], enough: Flags
) -> Moves:
    """What moves the tools.

    Args:
        tools: ``(t, d)``, vectors of descriptions.
        queries: ``(n, d)``.
        pairs: queries with a tool that served each.
        failed: query and tool of each failure.
        enough: ``(t,)``, which tools may move.
    """
    pulls = np.zeros(tools.shape, np.float32)
    np.add.at(pulls, pairs.tool, pairs.vectors)
    rivals = _rivals(ranking.unit(FIRST_PULL * tools + pulls), pairs, enough)
    both = [np.concatenate(two) for two in zip(failed, rivals, strict=True)]
    # A tool that both failed and served a query is not pushed away from it.
    unique = np.unique(np.stack(both, axis=1).reshape(-1, 2), axis=0)
    served = set(zip(pairs.query.tolist(), pairs.tool.tolist(), strict=True))
    kept = np.array([tuple(one) not in served for one in unique.tolist()], dtype=np.bool_)
    query, tool = unique[kept].T.astype(np.int64)
    pushes = np.zeros(tools.shape, np.float32)
    np.add.at(pushes, tool, queries[query])
    many = np.bincount(tool, minlength=len(tools)).astype(np.float32)
    return Moves(tools, queries, pulls, pushes, many, (query, tool), enough)


def _rivals(vectors: Floats, pairs: Pairs, enough: Flags) -> tuple[Ints, Ints]:
    """For each tool that may move, the queries of others that are nearest to it."""
    scores = np.where(pairs.other, -np.inf, pairs.vectors @ vectors.T)
    counts: Mapping[int, int] = dict(enumerate(np.bincount(pairs.tool, minlength=len(vectors))))
    found = []
    for tool in np.flatnonzero(enough).tolist():
        most = min(max(LEAST_RIVALS, counts[tool]), int((~pairs.other[:, tool]).sum()))
        near = np.argpartition(-scores[:, tool], most - 1)[:most] if most else np.arange(0)
        found.append((pairs.query[near], np.full(most, tool)))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    query, tool_of = zip(*found, strict=True)
    return np.concatenate(query), np.concatenate(tool_of)


def _joined(query: Ints, pushing: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Rows of ``query`` and the tools that each of them pushes."""
    start = np.searchsorted(pushing[0], query, side="left")
    many = np.searchsorted(pushing[0], query, side="right") - start
    row = np.repeat(np.arange(len(query)), many)
    within = np.arange(len(row)) - np.repeat(np.cumsum(many) - many, many)
    tool = pushing[1][start[row] + within]
    return row, tool
