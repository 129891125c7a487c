"""What every learner promises. One module a learner; each module satisfies :class:`Learner`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from learners.errors import InteractionError, SpecError
from learners.features import Schema
from learners.interactions import Interactions
from learners.scorer import Scorer

Params = Mapping[str, float | int | str | bool]

MAX_ARMS = 1024


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a learner is made from: the same spec and log give the same bytes."""

    schema: Schema
    arms: tuple[str, ...]
    params: Params = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty, repeating or huge set of arms."""
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise SpecError(f"arms {list(self.arms)}: give at least one, each once")
        if len(self.arms) > MAX_ARMS:
            raise SpecError(f"{len(self.arms)} arms: at most {MAX_ARMS} are allowed")


class Learner(Protocol):
    """A learner's module. ``Any`` is the learner's own state, which only its module reads.

    ``learn`` never changes the state that it is given: the incumbent stays usable. All five are
    pure: no clock, no global randomness, no I/O.
    """

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
        except (TypeError, ValueError) as error:
            raise SpecError(f"{name}.{key} is {value!r}: give a {kind.__name__}") from error
    return found
