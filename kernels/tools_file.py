"""The file of refined tools: what `pointsman tools refine` writes, and an edge ranks by.

A safetensors file of the arrays of :class:`kernels.tools.Refined`, of those of
:class:`kernels.tools_rerank.Reranker` where outcomes are dense enough for one, and of metadata:
the tools' names and which encoder made the vectors. It replaces an older one in one step, and is
read whole before anything of it is believed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kernels.tools import MAX_TOOLS, Refined
from kernels.tools_ranking import DEPTH, Floats, Ints
from kernels.tools_rerank import NUMBERS, Reranker

FORMAT = "pointsman.tools/2"
MAX_BYTES = 64 * 2**20
MAX_NAME = 200
_ARRAYS = ("descriptions", "vectors", "favours", "refined")
_SECOND = ("examples", "query", "places", "many", "weights")
_NUMBERS = ("pull", "push", "before", "after")
_LENGTH_BYTES = 8

Arrays = Mapping[str, NDArray[Any]]


class ToolsFileError(ValueError):
    """A file of refined tools cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class ToolsFile:
    """Tools by which requests are ranked.

    Args:
        names: ``(t,)``, each once.
        encoder: which made the vectors (:func:`kernels.models.encoder_of`).
        refined: the tools in the same order.
        second: a second look at the first five, where outcomes were dense enough to learn one.
    """

    names: tuple[str, ...]
    encoder: str
    refined: Refined
    second: Reranker | None = None

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return int(self.refined.vectors.shape[1])

    def order(self, query: Floats, rows: Ints | None = None) -> Ints:
        """Rows of tools, best first, for one query ``(d,)``; of all, or of these ``rows`` only.

        Tools that were not refined keep the places that descriptions give them among ``rows``.
        """
        refined, second = self.refined, self.second
        if rows is not None:
            refined = refined.only(rows)
            second = second.only(rows) if second is not None else None
        queries = query[None].astype(np.float32)
        found = refined.order(queries) if second is None else second.order(refined, queries)
        order: Ints = found[0] if rows is None else rows[found[0]]
        return order

    def best(self, query: Floats, rows: Ints, most: int) -> Ints:
        """The best ``most`` of these ``rows`` for one query ``(d,)``, in no order.

        The second look changes places among the first five alone, so it is taken for fewer only.
        """
        tools = self if most < DEPTH else replace(self, second=None)
        return tools.order(query, rows)[:most]


def write(path: Path, tools: ToolsFile) -> None:
    """Write the file beside an older one, then put it in its place.

    Raises:
        ToolsFileError: It would be larger than what is read.
        OSError: It cannot be written.
    """
    refined, second = tools.refined, tools.second
    told = {
        "format": FORMAT,
        "encoder": tools.encoder,
        "names": json.dumps(tools.names),
        **{name: repr(getattr(refined, name)) for name in _NUMBERS},
    }
    arrays: dict[str, NDArray[Any]] = {
        "descriptions": np.ascontiguousarray(refined.descriptions, np.float32),
        "vectors": np.ascontiguousarray(refined.vectors, np.float32),
        "favours": refined.favours,
        "refined": refined.refined.astype(np.uint8),
    }
    if second is not None:
        told["gain"] = repr(second.gain)
        arrays |= {
            "examples": second.examples.astype(np.float16),
            "query": second.query.astype(np.int32),
            "places": second.places.astype(np.int32),
            "many": second.many.astype(np.int32),
            "weights": second.weights,
        }
    data = save(arrays, told)
    if len(data) > MAX_BYTES:
        raise ToolsFileError(f"{path} would have {len(data):,} bytes: at most {MAX_BYTES:,}")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read(path: Path) -> ToolsFile:
    """The tools of a file.

    Raises:
        ToolsFileError: It is of another kind, damaged, or too large.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ToolsFileError(f"{path} has more than {MAX_BYTES:,} bytes: refine fewer tools")
    try:
        arrays, told = load(data), _metadata(data)
        if told.get("format") != FORMAT:
            raise ToolsFileError(
                f"{path} has the format {told.get('format')!r}, not {FORMAT!r}: refine again"
            )
        return _tools(arrays, told)
    except ToolsFileError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ToolsFileError(
            f"{path} is not what `pointsman tools refine` wrote ({error}): refine again"
        ) from error


def _metadata(data: bytes) -> Mapping[str, str]:
    """What stands in the head of a file that has been loaded, and so has one."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    head = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    told: Mapping[str, str] = head.get("__metadata__") or {}
    return told


def _tools(arrays: Arrays, told: Mapping[str, str]) -> ToolsFile:
    names = tuple(json.loads(told["names"]))
    _check_names(names)
    descriptions, vectors, favours, refined = (arrays[name] for name in _ARRAYS)
    many, size = len(names), descriptions.shape[-1]
    for name, array, shape in (
        ("descriptions", descriptions, (many, size)),
        ("vectors", vectors, (many, size)),
        ("favours", favours, (many,)),
    ):
        _check(name, array, shape, np.float32)
    _check("refined", refined, (many,), np.uint8)
    pull, push, before, after = (float(told[name]) for name in _NUMBERS)
    found = Refined(descriptions, vectors, favours, refined == 1, pull, push, before, after)
    second = None if "gain" not in told else _second(arrays, float(told["gain"]), many, size)
    return ToolsFile(names, told["encoder"], found, second)


def _second(arrays: Arrays, gain: float, many: int, size: int) -> Reranker:
    examples, query, places, counts, weights = (arrays[name] for name in _SECOND)
    _check("query", query, (len(examples),), np.int32)
    _check("examples", examples, (len(query), size), np.float16)
    _check("places", places, (many, places.shape[-1]), np.int32)
    _check("many", counts, (many,), np.int32)
    _check("weights", weights, (NUMBERS,), np.float32)
    if not (places.size and len(examples) and -1 <= places.min() <= places.max() < len(examples)):
        raise ValueError(f"places are not those of {len(examples)} examples")
    return Reranker(
        examples.astype(np.float32),
        query.astype(np.int64),
        places.astype(np.int64),
        counts.astype(np.int64),
        weights,
        gain,
    )


def _check(name: str, array: NDArray[Any], shape: Sequence[int], kind: type[np.generic]) -> None:
    if array.shape != tuple(shape) or array.dtype != kind:
        raise ValueError(
            f"{name} has the shape {array.shape} of {array.dtype}, not {tuple(shape)} of "
            f"{np.dtype(kind)}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds what is no number")


def _check_names(names: tuple[object, ...]) -> None:
    if not 0 < len(names) <= MAX_TOOLS or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} names: give 1 to {MAX_TOOLS:,}, each once")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"the name {name!r:.100} is none: give 1 to {MAX_NAME} characters")
