"""What every learner promises. One module a learner; each module satisfies :class:`Learner`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from learners.errors import InteractionError, SpecError
from learners.features import Schema
from learners.interactions import Interactions
from learners.records import Card
from learners.scorers.base import Scorer

Params = Mapping[str, float | int | str | bool]

MAX_ARMS = 1024


Promise = Literal["batch", "order", "blind"]
"""``batch``: learning in pieces equals learning at once. ``order``: so does any order of the log,
so that late and reordered feedback gives the same state. Both up to rounding. Without ``order``,
rows that are put in the log's order again give the same bytes, and rows learnt as they come a state
that keeps all else that is promised: bounded, finite, and the better arm found. ``blind``: it
reads no reward, so where nothing else tells the arms apart each eligible one stays as likely;
without it the better arm is found."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the reward is made of its parts: ``reward = parts @ mix + offset``.

    Attributes:
        names: the parts, which are metrics; m of them, in the order of the columns.
        mix: the weight of each, shape ``(m,)``.
    """

    names: tuple[str, ...] = ("reward",)
    mix: tuple[float, ...] = (1.0,)
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse parts without a weight, or with two."""
        if not self.names or len(self.names) != len(self.mix):
            raise SpecError(f"{len(self.names)} parts and {len(self.mix)} weights: give one each")


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a learner is made from: the same spec and log give the same bytes.

    ``cards`` say what is known of each arm before it has served, ``revisions`` which model stands
    behind it, so that what an arm earned before its model changed is not taken for the new one's.
    Both stand in the order of ``arms``, and may be left out.
    """

    schema: Schema
    arms: tuple[str, ...]
    params: Params = field(default_factory=dict)
    seed: int = 0
    cards: tuple[Card, ...] = ()
    revisions: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        """Refuse an empty, repeating or huge set of arms."""
        for name in ("cards", "revisions"):
            told = getattr(self, name)
            if told and len(told) != len(self.arms):
                raise SpecError(f"{len(told)} {name} for {len(self.arms)} arms: give one each")
            if not told:
                usual = Card() if name == "cards" else ""
                object.__setattr__(self, name, (usual,) * len(self.arms))
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise SpecError(f"arms {list(self.arms)}: give at least one, each once")
        if len(self.arms) > MAX_ARMS:
            raise SpecError(f"{len(self.arms)} arms: at most {MAX_ARMS} are allowed")


class Learner(Protocol):
    """A learner's module. ``Any`` is the learner's own state, which only its module reads.

    ``learn`` never changes the state that it is given: the incumbent stays usable. All six are
    pure: no clock, no global randomness, no I/O.
    """

    PROMISES: frozenset[Promise]
    """What holds of its state beyond what every learner promises."""

    PARAMS: Params
    """The parameters with their defaults; any other name is refused."""

    def init(self, spec: Spec) -> Any:
        """The state before any learning."""

    def learn(self, state: Any, interactions: Interactions) -> Any:
        """The state after these interactions.

        Raises:
            InteractionError: The interactions are over other arms than the state's.
        """

    def freeze(self, state: Any) -> Scorer:
        """The portable scorer; works before any learning too."""

    def rearm(self, state: Any, spec: Spec) -> Any:
        """The state for other arms, without learning again: what is known of an arm stays.

        An arm that has left is forgotten; one that is new, or whose revision is another, starts
        as before any learning. Only ``arms``, ``cards`` and ``revisions`` of ``spec`` may differ.

        Raises:
            SpecError: Something else of the spec differs, or the learner takes no such change.
        """

    def snapshot(self, state: Any) -> bytes:
        """The state as bytes; equal states give equal bytes."""

    def restore(self, spec: Spec, data: bytes) -> Any:
        """The state that :meth:`snapshot` wrote, with the same future.

        Raises:
            SnapshotError: The bytes are damaged or belong to another learner or spec.
        """


def check(spec: Spec, interactions: Interactions) -> None:
    """Refuse interactions that another spec encoded.

    Raises:
        InteractionError: They are over other arms or columns than the spec's.
    """
    if interactions.arms != spec.arms:
        raise InteractionError(
            f"interactions over arms {list(interactions.arms)}, the learner has "
            f"{list(spec.arms)}: encode the log again for these arms"
        )
    if interactions.x.shape[1] != spec.schema.dimension:
        raise InteractionError(
            f"interactions of {interactions.x.shape[1]} columns, the schema has "
            f"{spec.schema.dimension}: encode the log again with this schema"
        )
    if len(interactions) and interactions.parts.shape[1] not in {1, len(spec.reading.names)}:
        raise InteractionError(
            f"interactions of {interactions.parts.shape[1]} parts, the reward has "
            f"{len(spec.reading.names)}: encode the log again with this reward"
        )


def kept(old: Spec, new: Spec) -> tuple[list[int], list[int]]:
    """The places of the arms that stay as they are, in the old spec and in the new one.

    Raises:
        SpecError: More than arms, cards and revisions differs.
    """
    for name in ("schema", "params", "seed", "reading"):
        if getattr(old, name) != getattr(new, name):
            raise SpecError(f"{name} differs: only arms may change, train from the log instead")
    place = {pair: i for i, pair in enumerate(zip(old.arms, old.revisions, strict=True))}
    pairs = list(enumerate(zip(new.arms, new.revisions, strict=True)))
    both = [(place[pair], i) for i, pair in pairs if pair in place]
    return [a for a, _ in both], [b for _, b in both]


def carried(
    values: NDArray[np.float64], old: Spec, new: Spec, usual: float = 0.0
) -> NDArray[np.float64]:
    """An array with a row an arm for the new spec's arms: ``usual`` where nothing is known."""
    before, after = kept(old, new)
    found = np.full((len(new.arms), *values.shape[1:]), usual)
    found[after] = values[before]
    return found


def resolve_params(name: str, defaults: Params, given: Params) -> dict[str, Any]:
    """The defaults with the given values over them, each of its default's type.

    Raises:
        SpecError: A name is unknown or a value has the wrong type.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise SpecError(f"{name} has no parameter {unknown[0]!r}: it takes {sorted(defaults)}")
    found: dict[str, Any] = dict(defaults)
    for key, value in given.items():
        kind = type(defaults[key])
        try:
            found[key] = kind(value)
        except (OverflowError, TypeError, ValueError) as error:
            raise SpecError(f"{name}.{key} is {value!r}: give a {kind.__name__}") from error
    return found
