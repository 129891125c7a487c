"""The log that a round reads: each context is encoded as it comes, and not kept."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import ContextError
from learners.features import Schema
from learners.preferences import PREFIX
from learners.records import Context, Interaction

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RoundLog:
    """n rows in the order of their positions, beside their contexts encoded.

    A million contexts as mappings take gigabytes, and as columns a small part of that.

    Attributes:
        rows: without their contexts, but for what :func:`preferences` keeps.
        position: of each row, rising, shape ``(n,)``.
        x: by the schema of each of those given, shape ``(n, d)`` each.
        misfits: how many rows were left out, as a schema could not take their context.
    """

    rows: list[Interaction]
    position: NDArray[np.int64]
    x: tuple[Floats, ...]
    misfits: int

    @classmethod
    def read(
        cls,
        batches: Iterable[tuple[Sequence[Interaction], Sequence[Context]]],
        schemas: Sequence[Schema],
        *,
        limit: int,
    ) -> Self:
        """Encode the contexts as they come with their rows, ``limit`` at most."""
        distinct = list(dict.fromkeys(schemas))
        # Untouched memory costs nothing, and pieces joined at the end would need it twice.
        x = {schema: np.empty((limit, schema.dimension)) for schema in distinct}
        rows: list[Interaction] = []
        misfits = 0
        with _uncollected():
            for batch, contexts in batches:
                kept, encoded = _fitting(batch, contexts, distinct)
                misfits += len(batch) - len(kept)
                for schema, part in zip(distinct, encoded, strict=True):
                    x[schema][len(rows) : len(rows) + len(kept)] = part
                rows += kept
        return cls(
            rows, _positions(rows), tuple(x[schema][: len(rows)] for schema in schemas), misfits
        )

    def encoded(self, rows: Sequence[Interaction], schema: int = 0) -> Floats:
        """The contexts of some of the rows, by their positions: shape ``(len(rows), d)``."""
        place = np.searchsorted(self.position, _positions(rows))
        if len(place) and (np.diff(place) == 1).all():
            return self.x[schema][place[0] : place[-1] + 1]  # no copy of what lies in one piece
        return self.x[schema][place]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the collector: rows hold no cycles, and to look for some took a quarter of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _positions(rows: Sequence[Interaction]) -> NDArray[np.int64]:
    return np.array([row.position for row in rows], dtype=np.int64)


def _fitting(
    rows: Sequence[Interaction], contexts: Sequence[Context], schemas: Sequence[Schema]
) -> tuple[Sequence[Interaction], list[Floats]]:
    """The rows whose context all schemas can take, and those encoded."""
    try:
        return rows, _encoded(contexts, schemas)
    except ContextError:
        fits = [_fits(context, schemas) for context in contexts]
        return list(compress(rows, fits)), _encoded(list(compress(contexts, fits)), schemas)


def _encoded(contexts: Sequence[Context], schemas: Sequence[Schema]) -> list[Floats]:
    return [schema.encode_all(contexts) for schema in schemas]


def _fits(context: Context, schemas: Sequence[Schema]) -> bool:
    try:
        _encoded([context], schemas)
    except ContextError:
        return False
    return True


def keeping(feature: str | None) -> Callable[[Context], Context]:
    """What keeps a feature of a context beside its :func:`preferences`."""
    if feature is None:
        return preferences

    def kept(context: Context) -> Context:
        value = context.get(feature)
        if value is None or (isinstance(value, Sequence) and not isinstance(value, str)):
            return preferences(context)
        asked = preferences(context)
        return {**asked, feature: value} if asked else _alone(feature, value)

    return kept


def preferences(context: Context) -> Context:
    """What a row keeps of its context."""
    names = _asked(tuple(context))
    return {name: context[name] for name in names} if names else _NOTHING


@lru_cache(1_024)
def _alone(feature: str, value: float | str) -> Context:
    """One object for the many contexts that say the same."""
    return {feature: value}


@lru_cache(1_024)
def _asked(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name.startswith(PREFIX))


_NOTHING: Context = {}
