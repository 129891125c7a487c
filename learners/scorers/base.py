"""What every portable policy can do, and how a stored one is read back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration, probabilities

Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]

_FORMS = {
    "linear": "learners.scorers.linear:Linear",
    "linear_ucb": "learners.scorers.linear:Linear",
    "ensemble": "learners.scorers.ensemble:Ensemble",
    "mixed": "learners.scorers.mixed:Mixed",
    "threshold": "learners.scorers.threshold:Threshold",
    "trees": "learners.scorers.trees:Trees",
    "neighbours": "learners.scorers.neighbours:Neighbours",
    "budgeted": "learners.scorers.budgeted:Budgeted",
    "blend": "learners.scorers.blend:Blend",
}
"""Where each kind's class is; a kind is imported only when one is read."""

_NUMBERS = ("float64", "float32", "int64")
"""What forms write. Flags, unsigned and complex numbers pass as finite, and reckon otherwise."""


class Scorer(ABC):
    """A trained policy as plain numbers: scores arms, then spreads its choice over them.

    Every form is a frozen dataclass with ``arms`` (K names, the order of all arrays) and
    ``exploration``, and refuses numbers that are not finite when it is made.
    """

    __slots__ = ()

    arms: tuple[str, ...]
    exploration: Exploration

    @property
    @abstractmethod
    def kind(self) -> str:
        """The form's name in a bundle."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Columns d of the encoded contexts that it takes."""

    @abstractmethod
    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:
        """Scores ``(n, K)`` for encoded contexts ``(n, d)``; higher is better.

        Args:
            x: encoded contexts.
            mix: each row's own weights of the reward's parts, shape ``(n, m)``. Only a form that
                predicts the parts apart can follow them; any other ignores them.
        """

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""

    @abstractmethod
    def form(self) -> dict[str, Any]:
        """What a bundle's manifest says beside arms, exploration and tensors."""

    @classmethod
    @abstractmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that :meth:`as_json` and :meth:`tensors` wrote.

        Raises:
            SpecError: The numbers do not fit together.
            KeyError: Something is missing.
        """

    @abstractmethod
    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over exactly these arms, in this order.

        An arm that it knows keeps its numbers. A new arm is taken to be as the known ones are on
        average, its confidence bound included: it is served by the exploration's floor until a
        version has learnt it.
        """

    @abstractmethod
    def explored(self, exploration: Exploration) -> Self:
        """The same scores, spread in another way."""

    def modest(self, known: Sequence[str]) -> Self:
        """The scorer with all but these of its arms made average ones."""
        return self.over(known).over(self.arms)

    def greedy(self) -> Self:
        """The best choice that is known: without exploration or a bonus for the unknown."""
        return self.explored(Exploration("greedy"))

    def floored(self, floor: float) -> Self:
        """The scorer with at least this much even exploration."""
        if self.exploration.floor >= floor:
            return self
        return self.explored(replace(self.exploration, floor=floor))

    def distribution(
        self, x: Floats, eligible: NDArray[np.bool_], mix: Floats | None = None
    ) -> Floats:
        """Probabilities ``(n, K)`` for contexts ``(n, d)`` and eligible arms ``(n, K)``."""
        return probabilities(self.scores(x, mix), eligible, self.exploration)

    def as_json(self) -> dict[str, Any]:
        """What a bundle's manifest says beside the tensors."""
        return {
            "kind": self.kind,
            "arms": list(self.arms),
            "exploration": self.exploration.as_json(),
            **self.form(),
        }


def load(row: Mapping[str, Any], tensors: Tensors) -> Scorer:
    """The scorer that :meth:`Scorer.as_json` and :meth:`Scorer.tensors` wrote.

    Raises:
        SpecError: The kind is unknown (a newer release wrote it), or the numbers do not fit.
    """
    kind = row.get("kind")
    if kind not in _FORMS:
        raise SpecError(f"no scorer {kind!r}: this release reads {', '.join(_FORMS)}")
    for name, values in tensors.items():
        if values.dtype.name not in _NUMBERS:
            raise SpecError(f"tensor {name!r} is of {values.dtype}: give {', '.join(_NUMBERS)}")
    module, _, name = _FORMS[str(kind)].partition(":")
    form = cast("type[Scorer]", getattr(import_module(module), name))
    try:
        return form.read(row, tensors)
    except KeyError as error:
        raise SpecError(
            f"tensors {sorted(tensors)} do not make a {kind!r} scorer: {error} is missing"
        ) from error


def check_arms(arms: Sequence[str]) -> None:
    """Refuse no arms, or arms that repeat.

    Raises:
        SpecError: There are none, or one stands twice.
    """
    if not arms or len(set(arms)) != len(arms):
        raise SpecError(f"arms {list(arms)} repeat or are none: name each once")


def check_finite(**tensors: NDArray[Any]) -> None:
    """Refuse numbers that are not finite.

    Raises:
        SpecError: One is not.
    """
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise SpecError(f"{name} holds NaN or infinity: the training data are poisoned")


def matched(known: Sequence[str], arms: Sequence[str], values: Floats, axis: int = 0) -> Floats:
    """An array with one entry an arm along ``axis``, for other arms: a new arm gets the average.

    Without any arm in common a new one gets zeros.
    """
    index = {arm: i for i, arm in enumerate(known)}
    kept = [index[arm] for arm in arms if arm in index]
    usual = np.take(values, kept, axis).mean(axis) if kept else np.zeros_like(values.take(0, axis))
    columns = [values.take(index[arm], axis) if arm in index else usual for arm in arms]
    return np.stack(columns, axis)
