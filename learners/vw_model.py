"""Vowpal Wabbit, wrapped: a model of linear regressions, each in a block of its own indices.

Block b holds the d columns at the indices ``b · d`` to ``b · d + d - 1``, without constant,
interactions or hashing, so the weights read as a dense array that scores as VW does, and the edge
needs no VW. What a model is, is the bytes that VW saves: VW copies no workspace, so each use loads
them. With `--preserve_performance_counters` VW's gradient descent goes on after loading as if it
had never been saved, weight by weight (its loss counters may differ in the last bits).

Dangers that end here:

* VW loads damaged bytes without a word and dies of an index out of range: bytes are checked by
  digest before they come here, and indices are made here.
* ``Workspace.weights()`` shows memory that is not VW's where a reduction interleaves several
  models (`--cb_type dr`, `--bag`): no such flag is used; more models are more blocks.
* ``apply_delta`` refuses merged deltas ("num_bits"), so :func:`merged` merges the weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vowpal_wabbit_next import CBLabel, Example, Workspace

from learners.errors import SpecError

Floats = NDArray[np.float64]
Model = Workspace[Any]
Row = tuple[Any, Any]
"""Indices ``(c,)`` of uint64 and values ``(c,)`` of float32; the library's stub misnames both."""

MAX_WEIGHTS = 2**22
"""Blocks × columns."""
ROOM = 4
LEAST_ROOM = 64
"""How many blocks there is room for: VW fixes the number of weights for good, arms join later."""
ROWS_AT_ONCE = 4_096

_WEIGHT, _ADAPTIVE, _NORM = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's blocks: G groups of one an arm, of d columns each."""

    groups: int
    arms: int
    columns: int

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.groups * self.arms * self.columns


def checked(learner: str, shape: Shape) -> Shape:
    """Refuse a model that is too large.

    Raises:
        SpecError: It is.
    """
    if shape.weights > MAX_WEIGHTS:
        raise SpecError(
            f"{shape.weights} weights: {learner} takes at most {MAX_WEIGHTS}; use fewer columns"
        )
    return shape


def make(shape: Shape, rate: float, cb_type: str = "mtr") -> bytes:
    """An empty model with room for more blocks than these, up to :data:`MAX_WEIGHTS`."""
    room = max(LEAST_ROOM, ROOM * shape.groups * shape.arms) * shape.columns
    size = max(shape.weights, min(room, MAX_WEIGHTS))
    flags = ["--cb_adf", "--cb_type", cb_type, "--noconstant", "--preserve_performance_counters"]
    sizes = ["-b", str((size - 1).bit_length()), "-l", repr(rate)]
    return Workspace([*flags, *sizes, "--quiet"]).serialize()


def load(model: bytes) -> Model:
    """A workspace of its own, with the model's weights."""
    return Workspace(["--quiet"], model_data=model)


def view(workspace: Model, shape: Shape) -> NDArray[np.float32]:
    """A view ``(G, K, d, 4)`` of the model: the weight, and three sums of its steps."""
    weights = workspace.weights()
    sizes = (shape.groups, shape.arms, shape.columns, weights.shape[2])
    return weights[: shape.weights, 0, :].reshape(sizes)


def rows(x: Floats, block: NDArray[np.int64]) -> Iterator[Row]:
    """Each context's indices in its block, and its values: direct indices, no text to parse."""
    for start in range(0, len(x), ROWS_AT_ONCE):
        piece = x[start : start + ROWS_AT_ONCE]
        at, columns = np.nonzero(piece)
        places = (block[start : start + ROWS_AT_ONCE][at] * x.shape[1] + columns).astype(np.uint64)
        values = piece[at, columns].astype(np.float32)
        ends = np.cumsum(np.bincount(at, minlength=len(piece))).tolist()
        begin = 0
        for end in ends:
            yield places[begin:end], values[begin:end]
            begin = end


def example(row: Row, cost: tuple[float, float] | None = None, weight: float = 1.0) -> Example:
    """An action's example; ``cost`` is its cost and the probability that it was chosen with."""
    made = Example()
    made["a"].push_many_features(*row)
    made.set_label(CBLabel(label=cost, weight=weight))
    return made


def step(workspace: Model, row: Row, cost: float, weight: float) -> None:
    """One step of a block's regression towards a cost.

    It is VW's `mtr` shown the chosen action alone: mtr learns from no other, and weighs by
    1 / (number of actions · probability), which is 1 here, so ``weight`` is all of it.
    """
    workspace.learn_one([example(row, (cost, 1.0), weight)])


def moved(
    model: bytes, shape: Shape, empty: bytes, to: Shape, kept: tuple[list[int], list[int]]
) -> bytes:
    """The model with other arms: those kept move, with what VW's steps need of each weight.

    Where the arms have outgrown the model's room they move to ``empty``, which measures the
    columns' mean size anew; all else stays.

    Args:
        model: what was learnt, of ``shape``.
        shape: as it is.
        empty: a fresh model of the new shape.
        to: as it is to be.
        kept: the places of the arms that stay, in the old model and in the new.
    """
    old = load(model)
    blocks = view(old, shape).copy()
    new = old if len(old.weights()) >= to.weights else load(empty)
    new.weights()[:] = 0.0
    before, after = kept
    view(new, to)[:, after] = blocks[:, before]
    return new.serialize()


def merged(base: bytes, trained: Sequence[bytes], shape: Shape) -> bytes:
    """One model of several that learnt on from ``base`` apart.

    Each weight moves by the mean of the models' moves, weighted by what each has learnt of it (the
    sum of its squared gradients, as VW weighs the nodes of a cluster; Agarwal et al. 2014,
    arXiv:1110.4198, algorithm 1), so a weight that one alone has touched moves as far as it did.
    """
    before = view(load(base), shape).astype(np.float64)
    models = [load(model) for model in trained]
    after = np.stack([view(model, shape) for model in models]).astype(np.float64)
    moves = after - before
    learnt = np.maximum(moves[..., _ADAPTIVE], 0.0)
    total = learnt.sum(axis=0)
    shares = np.where(total > 0, learnt / np.where(total > 0, total, 1.0), 0.0)
    found = after[0].copy()
    found[..., _WEIGHT] = before[..., _WEIGHT] + (shares * moves[..., _WEIGHT]).sum(axis=0)
    found[..., _ADAPTIVE] = before[..., _ADAPTIVE] + total
    found[..., _NORM] = after[..., _NORM].max(axis=0)
    view(models[0], shape)[:] = found
    return models[0].serialize()
