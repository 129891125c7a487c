"""A Hoeffding regression tree grown from a whole window at once: the tree that River's would be.

River learns a row at a time and keeps an object for each column's every interval. With the rows at
hand their sums are arrays, so a window of 1,000 rows takes milliseconds instead of a second. Which
rows meet which leaf, when a leaf tries to split and what it splits on are as in River's
``HoeffdingTreeRegressor`` with its ``QOSplitter`` (Domingos & Hulten 2000; Ikonomovska et al. 2011;
Mastelini & de Carvalho 2021), to which the tests hold it. That includes two oddities of River's:
the rows of the interval above a threshold are counted to its left, and a left leaf starts from all
rows that its parent saw. Of splits that are alike but for rounding, either may be taken.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

RADIUS = 0.25
"""Length of a column's intervals."""
LEAST_SIDE = 5.0
"""Weight on either side of a split."""


@dataclass(frozen=True, slots=True)
class Growth:
    """When a leaf splits.

    Attributes:
        depth: of the tree, at most.
        grace: weight in a leaf between two tries.
        confidence: chance that the split is not the best one, River's delta.
        tie: a Hoeffding bound below which the better of two alike is taken, River's tau.
    """

    depth: int
    grace: float
    confidence: float
    tie: float

    def sure(self, first: float, second: float, weight: float) -> bool:
        """Whether the best split, by its and the next one's merit, is to be taken."""
        bound = math.sqrt(-math.log(self.confidence) / (2.0 * weight))
        return first > 0.0 and (second / first < 1.0 - bound or bound < self.tie)


@dataclass(frozen=True, slots=True)
class Sums:
    """Weight, mean and sum of squares about it of targets: numbers, or arrays of one shape."""

    weight: Floats
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, weight: Floats, moment: Floats, energy: Floats) -> Self:
        """From Σ w, Σ w t and Σ w t²."""
        mean = moment / np.where(weight > 0, weight, 1.0)
        return cls(weight, mean, np.maximum(energy - moment * mean, 0.0))

    def plus(self, other: Self) -> Self:
        """Of both's rows."""
        weight = self.weight + other.weight
        whole = np.where(weight > 0, weight, 1.0)
        mean = (self.weight * self.mean + other.weight * other.mean) / whole
        apart = np.square(self.mean - other.mean) * self.weight * other.weight / whole
        return type(self)(weight, mean, self.squares + other.squares + apart)

    def less(self, other: Self) -> Self:
        """Of the rows that are not the other's."""
        weight = self.weight - other.weight
        some = weight > 0
        left = np.where(some, weight, 1.0)
        moment = self.weight * self.mean - other.weight * other.mean
        mean = np.where(some, moment / left, 0.0)
        apart = np.square(mean - other.mean) * weight * other.weight / self.weight
        return type(self)(np.where(some, weight, 0.0), mean, self.squares - other.squares - apart)

    def variance(self) -> Floats:
        """0 where the weight is 1 at most."""
        free = self.weight - 1.0
        return np.where(free > 0, self.squares / np.where(free > 0, free, 1.0), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a tree is grown from, in the order of time.

    Attributes:
        x: shape ``(n, c)``.
        rank: of each row's interval among those that its column has, shape ``(n, c)``.
        target: shape ``(n,)``.
        weight: above 0, shape ``(n,)``.
        ranks: intervals of the column that has the most.
    """

    x: Floats
    rank: Whole
    target: Floats
    weight: Floats
    ranks: int

    @classmethod
    def of(cls, x: Floats, target: Floats, weight: Floats) -> Self:
        """Rows with their intervals ranked."""
        interval = np.floor(x / RADIUS)
        order = np.argsort(interval, axis=0)
        rises = np.diff(np.take_along_axis(interval, order, axis=0), axis=0) > 0
        rank = np.zeros(x.shape, dtype=np.int64)
        np.put_along_axis(rank, order[1:], np.cumsum(rises, axis=0), axis=0)
        return cls(x, rank, target, weight, int(rank.max(initial=0)) + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What a leaf is split on, and what its two sides start from."""

    column: int
    threshold: float
    left: Sums
    right: Sums


Node = tuple[float, ...]
"""Column, threshold, left and right child's number, mean target; a leaf is its own child."""


def grown(rows: Rows, growth: Growth, start: int) -> list[Node]:
    """The tree's nodes, parents before their children; ``start`` is the root's number."""
    zero = np.zeros(())
    waiting = deque([(np.arange(len(rows.target)), Sums(zero, zero, zero), 0)])
    nodes: list[Node] = []
    last = start
    while waiting:
        index, before, depth = waiting.popleft()
        here = start + len(nodes)
        met, split = _lived(rows, index, before, growth, depth)
        value = float(before.plus(_summed(rows, index[:met])).mean)
        if split is None:
            nodes.append((0, 0.0, here, here, value))
            continue
        nodes.append((split.column, split.threshold, last + 1, last + 2, value))
        last += 2
        after = index[met:]
        goes_left = rows.x[after, split.column] <= split.threshold
        waiting.append((after[goes_left], split.left, depth + 1))
        waiting.append((after[~goes_left], split.right, depth + 1))
    return nodes


def _lived(
    rows: Rows, index: Whole, before: Sums, growth: Growth, depth: int
) -> tuple[int, Split | None]:
    """How many of its rows a leaf has met when it splits, and how; all of them if it never does."""
    n, columns = len(index), rows.x.shape[1]
    if depth >= growth.depth or not columns:
        return n, None
    seen = np.cumsum(np.concatenate([before.weight[None], rows.weight[index]]))
    table = _Table.empty(columns, rows.ranks)
    tried = met = 0
    while True:
        due = seen[met + 1 :] - seen[tried] >= growth.grace
        if not due.any():
            return n, None
        tried = met + 1 + int(due.argmax())
        table.add(rows, index[met:tried])
        met = tried
        whole = before.plus(_summed(rows, index[:met]))
        split = table.split(rows, index[:met], whole, growth)
        if split is not None:
            return met, split


def _summed(rows: Rows, index: Whole) -> Sums:
    weight, target = rows.weight[index], rows.target[index]
    moment = weight @ target
    return Sums.of(weight.sum(), np.asarray(moment), np.asarray(weight @ np.square(target)))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Σ w, Σ w t and Σ w t² of a leaf's rows by column and interval, shape ``(3, c, s)``."""

    sums: Floats

    @classmethod
    def empty(cls, columns: int, ranks: int) -> "_Table":
        return cls(np.zeros((3, columns, ranks)))

    def add(self, rows: Rows, index: Whole) -> None:
        """Add some rows."""
        _, columns, ranks = self.sums.shape
        place = (rows.rank[index] + ranks * np.arange(columns)).ravel()
        weight, target = rows.weight[index], rows.target[index]
        for i, each in enumerate((weight, weight * target, weight * np.square(target))):
            found = np.bincount(place, np.repeat(each, columns), columns * ranks)
            self.sums[i] += found.reshape(columns, ranks)

    def split(self, rows: Rows, index: Whole, whole: Sums, growth: Growth) -> Split | None:
        """The best split of the rows that were added, if it is sure enough."""
        left = Sums.of(*np.cumsum(self.sums, axis=2))
        right = whole.less(left)
        kept = (left.weight * left.variance() + right.weight * right.variance()) / whole.weight
        enough = (left.weight >= LEAST_SIDE) & (right.weight >= LEAST_SIDE)
        merit = np.where(enough, whole.variance() - kept, 0.0)
        some = self.sums[0] > 0
        merit[~some | (np.cumsum(some, axis=1) < 2)] = -np.inf
        interval = merit.argmax(axis=1)
        best = merit[np.arange(len(merit)), interval]
        order = np.argsort(best, kind="stable")
        column, second = int(order[-1]), -np.inf if len(best) < 2 else float(best[order[-2]])
        if not growth.sure(float(best[column]), second, float(whole.weight)):
            return None
        at = int(interval[column])
        below = int(np.flatnonzero(some[column, :at])[-1])
        places = (_mean_place(rows, index, column, each) for each in (below, at))
        sides = Sums(right.weight[column, at], right.mean[column, at], right.squares[column, at])
        return Split(column, sum(places) / 2.0, _summed(rows, index), sides)


def _mean_place(rows: Rows, index: Whole, column: int, rank: int) -> float:
    own = index[rows.rank[index, column] == rank]
    return float(np.average(rows.x[own, column], weights=rows.weight[own]))
