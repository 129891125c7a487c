"""Launch the attention kernel: a code object by the card's own driver.

``Attention`` takes a folder that :mod:`kernels.aot` wrote and needs nothing but a driver: no
PyTorch, and no compiler.
"""

import ctypes
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.attention import objects, reference
from kernels.attention.driver import Card
from kernels.attention.objects import CodeObject
from kernels.attention.triton_flash import (
    ARGUMENTS,
    Dtype,
    Problem,
    signature,
)

NUMPY_TYPES: Mapping[str, Dtype] = {"float32": "fp32", "float16": "fp16", "uint16": "bf16"}
"""Numpy knows no bfloat16: its bits ride in uint16."""
ALIGNMENT = 16
"""Bytes that each address is a multiple of: the kernel was compiled to rely on it."""
_SCRATCH = ("global_scratch", "profile_scratch")
"""Addresses that Triton adds behind a kernel's own arguments; this kernel uses neither."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a launch's arrays lie on the card; each is a multiple of 16 bytes."""

    query: int
    key: int
    value: int
    lengths: int
    out: int

    def __post_init__(self) -> None:
        for name in ("query", "key", "value", "lengths", "out"):
            address = getattr(self, name)
            if address <= 0 or address % ALIGNMENT:
                raise ValueError(f"{name} lies at {address:#x}: give a multiple of {ALIGNMENT}")


class Packed:
    """The arguments of a launch, as both drivers take them: a list of where each value lies."""

    def __init__(self, problem: Problem, addresses: Addresses) -> None:
        numbers = problem.numbers()
        values: list[Any] = []
        for name, kind in ARGUMENTS:
            if kind == "i32":
                values.append(ctypes.c_int32(int(numbers[name])))
            elif kind == "fp32":
                values.append(ctypes.c_float(numbers[name]))
            else:
                values.append(ctypes.c_void_p(getattr(addresses, name)))
        values += [ctypes.c_void_p(None) for _ in _SCRATCH]
        self._values = values  # the list below holds addresses only, and keeps nothing alive
        pointers = [ctypes.addressof(value) for value in values]
        self.pointers = (ctypes.c_void_p * len(pointers))(*pointers)


class Attention:
    """One code object on one card.

    Raises:
        ObjectError: The code object is missing or was changed.
        ValueError: It was built for another card, or takes other arguments.
        DriverError: The card does not take it.
    """

    def __init__(self, card: Card, about: CodeObject, folder: Path) -> None:
        if about.target != card.target:
            raise ValueError(
                f"{about.file} is built for {about.target}, this card is {card.target}"
            )
        check_arguments(about)
        self.card, self.about = card, about
        code = about.read(folder)
        self._function = card.load(code, about.symbol, shared_bytes=about.shared_bytes)

    def start(self, problem: Problem, addresses: Addresses) -> None:
        """Launch on arrays that are on the card; ``card.wait()`` waits for the result.

        Raises:
            ValueError: The code object was built for heads of another size.
        """
        if problem.head_dim != self.about.head_dim:
            raise ValueError(
                f"head_dim is {problem.head_dim}: {self.about.file} is for {self.about.head_dim}"
            )
        packed = Packed(problem, addresses)
        self.card.launch(
            self._function,
            problem.grid(self.about.queries),
            threads=self.about.threads,
            shared_bytes=self.about.shared_bytes,
            arguments=packed.pointers,
        )

    def attend(
        self,
        query: npt.NDArray[Any],
        key: npt.NDArray[Any],
        value: npt.NDArray[Any],
        *,
        lengths: npt.NDArray[np.integer] | None = None,
        window: int | None = None,
        scale: float | None = None,
    ) -> npt.NDArray[Any]:
        """:func:`kernels.attention.reference.attend` on the card, to the host's arrays and back.

        Args:
            query: Of shape ``(B, H, T, D)``, in the code object's number type (bfloat16 as
                uint16); so are the others.
            key: See ``query``.
            value: See ``query``.
            lengths: Of shape ``(B,)``; None: all tokens are real.
            window: None: no window.
            scale: None: ``1 / sqrt(D)``.

        Returns:
            Of the shape and the type of ``query``.
        """
        reference.check_shapes(query.shape, key.shape, value.shape)
        for part in (query, key, value):
            if NUMPY_TYPES.get(part.dtype.name) != self.about.dtype:
                raise ValueError(f"an array is {part.dtype}: this code takes {self.about.dtype}")
        batch, heads, tokens, size = query.shape
        problem = Problem(batch, heads, tokens, size, window, scale)
        real = np.full(batch, tokens) if lengths is None else lengths
        reference.check_lengths(real, batch=batch, tokens=tokens)
        out = np.empty(query.shape, dtype=query.dtype)
        with self.placed(query, key, value, real) as addresses:
            self.start(problem, addresses)
            self.card.wait()
            self.card.read(out.ctypes.data, addresses.out, out.nbytes)
        return out

    @contextmanager
    def placed(
        self,
        query: npt.NDArray[Any],
        key: npt.NDArray[Any],
        value: npt.NDArray[Any],
        lengths: npt.NDArray[np.integer],
    ) -> Iterator[Addresses]:
        """Copy arrays to the card, with room for the result; they go when this is left."""
        taken: list[int] = []
        try:
            for part in (query, key, value, lengths.astype(np.int32)):
                whole = np.ascontiguousarray(part)
                taken.append(self.card.allocate(whole.nbytes))
                self.card.write(taken[-1], whole.ctypes.data, whole.nbytes)
            taken.append(self.card.allocate(query.nbytes))
            yield Addresses(*taken)
        finally:
            for address in taken:
                self.card.free(address)

    def seconds(self, problem: Problem, addresses: Addresses, *, rounds: int, calls: int) -> float:
        """Median seconds of one launch, after one that warms up."""
        found = []
        for repetition in range(rounds + 1):
            started = perf_counter()
            for _ in range(calls):
                self.start(problem, addresses)
            self.card.wait()
            if repetition:
                found.append((perf_counter() - started) / calls)
        return statistics.median(found)


def check_arguments(about: CodeObject) -> None:
    """Refuse a code object that takes other arguments than are packed here."""
    wanted = tuple(signature(about.dtype).items())
    if about.arguments != wanted:
        raise ValueError(f"{about.file} takes {about.arguments}, not {wanted}: build it again")


def load(card: Card, folder: Path, dtype: Dtype, head_dim: int) -> Attention:
    """The kernel of a folder for this card, number type and size of a head."""
    return Attention(card, objects.read(folder).find(card.target, dtype, head_dim), folder)
