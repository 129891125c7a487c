"""The portable form of a policy that is a mixture of others: one of them, drawn, decides.

Its distribution is the convex combination of the members' own, so its probabilities are exact, and
it moves away from a member by no more than the others' weight: a policy that has learnt on is
brought in by as much as it may change at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, load

MAX_MEMBERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Blend(Scorer):
    """A mixture of scorers.

    Attributes:
        arms: the members' K names.
        exploration: the first member's kind; its floor is the least of the members'.
        members: each spreads its own choice.
        weights: each member's part, above 0, shape ``(M,)``; they sum to 1.
    """

    arms: tuple[str, ...]
    exploration: Exploration
    members: tuple[Scorer, ...]
    weights: Floats

    def __post_init__(self) -> None:
        """Refuse members that do not fit each other, and weights that are no parts of one."""
        check_arms(self.arms)
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise SpecError(f"{len(self.members)} members: give 1 to {MAX_MEMBERS}")
        if any(isinstance(one, Blend) for one in self.members):
            raise SpecError("a blend within another: give its members")
        if any(one.arms != self.arms for one in self.members):
            raise SpecError("the members' arms differ: give each the same")
        if len({one.dimension for one in self.members}) > 1:
            raise SpecError("the members' columns differ: give each the same schema")
        if self.exploration != _exploration(self.members):
            raise SpecError("the exploration is not the members'")
        check_finite(weights=self.weights)
        if self.weights.shape != (len(self.members),) or not (self.weights > 0).all():
            raise SpecError(f"weights {self.weights.tolist()}: give one above 0 for each member")
        if abs(float(self.weights.sum()) - 1.0) > 1e-9:
            raise SpecError(f"weights {self.weights.tolist()} do not sum to 1")

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "blend"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return self.members[0].dimension

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:
        """The members' mean scores ``(n, K)``: for whoever asks what is thought best on average."""
        return self._mean([one.scores(x, mix) for one in self.members])

    def distribution(
        self, x: Floats, eligible: NDArray[np.bool_], mix: Floats | None = None
    ) -> Floats:
        """The members' mean probabilities ``(n, K)``."""
        return self._mean([one.distribution(x, eligible, mix) for one in self.members])

    def _mean(self, each: Sequence[Floats]) -> Floats:
        return np.asarray(np.tensordot(self.weights, np.stack(each), axes=1))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""
        own = {"weights": np.ascontiguousarray(self.weights, dtype=np.float64)}
        inner = {
            f"{at}.{name}": values
            for at, one in enumerate(self.members)
            for name, values in one.tensors().items()
        }
        return {**own, **inner}

    def form(self) -> dict[str, Any]:
        """The members."""
        return {"members": [one.as_json() for one in self.members]}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        rows = row["members"]
        if len(rows) > MAX_MEMBERS or any(one.get("kind") == "blend" for one in rows):
            raise SpecError("a blend of blends, or of too many: give its members")
        members = tuple(load(one, _of(at, tensors)) for at, one in enumerate(rows))
        exploration = Exploration.from_json(row["exploration"])
        return cls(tuple(row["arms"]), exploration, members, tensors["weights"])

    def over(self, arms: Sequence[str]) -> Self:
        """The same mixture over these arms."""
        if tuple(arms) == self.arms:
            return self
        return self._around([one.over(arms) for one in self.members])

    def modest(self, known: Sequence[str]) -> Self:
        """Each member with all but these of its arms made average ones."""
        return self._around([one.modest(known) for one in self.members])

    def explored(self, exploration: Exploration) -> Self:
        """The same members, each spread in another way."""
        return self._around([one.explored(exploration) for one in self.members])

    def greedy(self) -> Self:
        """Each member's best choice that is known."""
        return self._around([one.greedy() for one in self.members])

    def floored(self, floor: float) -> Self:
        """Each member with at least this much even exploration."""
        if self.exploration.floor >= floor:
            return self
        return self._around([one.floored(floor) for one in self.members])

    def _around(self, members: Sequence[Scorer]) -> Self:
        found = tuple(members)
        exploration = _exploration(found)
        return replace(self, arms=found[0].arms, exploration=exploration, members=found)


def blend(served: Scorer, new: Scorer, share: float) -> Scorer:
    """The mixture of what serves with ``share`` of another: over the same arms, flat.

    Args:
        served: whose part is 1 − share; a blend's members keep their parts of it. Where there are
            too many, the least goes.
        new: no blend.
        share: from 0 to 1.

    Raises:
        SpecError: Arms or columns differ, or the share is none.
    """
    if not 0.0 <= share <= 1.0:
        raise SpecError(f"share {share} is outside [0, 1]")
    if share == 1.0:
        return new
    if share == 0.0:
        return served
    served = roomy(served)
    members = served.members if isinstance(served, Blend) else (served,)
    weights = served.weights if isinstance(served, Blend) else np.ones(1)
    both = (*members, new)
    parts = np.append((1.0 - share) * weights, share)
    return Blend(new.arms, _exploration(both), both, parts / parts.sum())


def roomy(served: Scorer) -> Scorer:
    """The scorer itself, or a full blend without its least member: one more can come in."""
    if not isinstance(served, Blend) or len(served.members) < MAX_MEMBERS:
        return served
    kept = np.sort(np.argsort(-served.weights, kind="stable")[: MAX_MEMBERS - 1])
    members = tuple(served.members[i] for i in kept)
    weights = served.weights[kept] / served.weights[kept].sum()
    return Blend(served.arms, _exploration(members), members, weights)


def _exploration(members: Sequence[Scorer]) -> Exploration:
    return replace(members[0].exploration, floor=min(one.exploration.floor for one in members))


def _of(at: int, tensors: Tensors) -> Tensors:
    prefix = f"{at}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
