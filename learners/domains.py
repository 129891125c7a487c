"""A policy's domains among its columns: which one each context is of, and weights by domain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.features import Schema

DOMAIN = "domain"
"""The usual name of the feature; a policy without it is one domain."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Domains:
    """G groups of contexts: one for each value of a category, the last for all other values.

    Attributes:
        start: the category's first column.
        size: how many values it has; 0 where the policy has no domains, so that G is 1.
    """

    start: int = 0
    size: int = 0

    @property
    def groups(self) -> int:
        """G."""
        return self.size + 1

    def of(self, x: Floats) -> NDArray[np.int64]:
        """The group of each encoded context: ``(n, d)`` gives ``(n,)``."""
        if self.size == 0:
            return np.zeros(len(x), dtype=np.int64)
        columns = x[:, self.start : self.start + self.size]
        first = columns.argmax(axis=1)
        known = columns[np.arange(len(x)), first] > 0
        return np.where(known, first, self.size)

    def weights(self, values: Floats, dimension: int) -> Floats:
        """The linear weights ``(..., d)`` that score each group's contexts ``values`` (..., G)."""
        found = np.zeros((*values.shape[:-1], dimension))
        elsewhere = values[..., -1]
        found[..., 0] = elsewhere
        stop = self.start + self.size
        found[..., self.start : stop] = values[..., :-1] - elsewhere[..., None]
        return found


def domains_of(schema: Schema, name: str) -> Domains:
    """Where a schema's domains are.

    Raises:
        SpecError: The feature is no category, or there is none of a name that was asked for.
    """
    start = 1
    for feature in schema.features:
        if feature.name == name:
            if feature.kind != "category":
                raise SpecError(
                    f"domain {name!r} is a {feature.kind}: name a feature that is a category"
                )
            return Domains(start, feature.width)
        start += feature.width
    if name != DOMAIN:
        names = [feature.name for feature in schema.features if feature.kind == "category"]
        raise SpecError(f"domain {name!r} is no feature: name one of the categories {names}")
    return Domains()
