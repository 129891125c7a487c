"""Flash attention in Triton: one source for AMD, for NVIDIA and for the interpreter on a CPU.

Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135):
a block of queries passes over blocks of keys and keeps a running maximum and sum, so no score
matrix is ever stored. Blocks of keys that lie wholly outside of the window or in the padding are
not read.

Triton is imported when the kernel is asked for, never with this module: only the environment that
builds kernels has it.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kernels.attention import reference

Dtype = Literal["fp32", "fp16", "bf16"]
Backend = Literal["hip", "cuda"]
Kind = Literal["tensor", "lengths", "i32", "fp32"]

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "bf16")
HEAD_DIMS = (32, 64)
"""Of the heads that are built; MiniLM's have 32."""
MAX_TOKENS = 1 << 20
"""Of a row: places stay far below 2³¹, window included."""
MAX_ROWS = 65_535
"""B × H: the grid's second axis takes no more, on either maker's cards."""
LOG2_E = 1.4426950408889634
ARGUMENTS: tuple[tuple[str, Kind], ...] = (
    ("query", "tensor"),
    ("key", "tensor"),
    ("value", "tensor"),
    ("lengths", "lengths"),
    ("out", "tensor"),
    ("heads", "i32"),
    ("tokens", "i32"),
    ("window", "i32"),
    ("scale", "fp32"),
)
"""What a launch gives, in order; sizes of blocks and heads are compiled in."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the work is cut: queries and keys of a block, warps of a program, stages of its loop."""

    queries: int = 64
    keys: int = 32
    warps: int = 4
    stages: int = 2

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            size = getattr(self, name)
            if not 16 <= size <= 256 or size & (size - 1):
                raise ValueError(f"{name} is {size}: give a power of two, 16…256")
        if self.warps not in {1, 2, 4, 8}:
            raise ValueError(f"warps is {self.warps}: give 1, 2, 4 or 8")
        if not 1 <= self.stages <= 4:
            raise ValueError(f"stages is {self.stages}: give 1…4")


@dataclass(frozen=True, slots=True)
class Problem:
    """The sizes of one launch: ``(B, H, T, D)``, the window (None: none) and the scale."""

    batch: int
    heads: int
    tokens: int
    head_dim: int
    window: int | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(f"head_dim is {self.head_dim}: the kernel is built for {HEAD_DIMS}")
        if self.tokens > MAX_TOKENS:
            raise ValueError(f"tokens is {self.tokens}: at most {MAX_TOKENS}; cut the text")
        if self.batch * self.heads > MAX_ROWS:
            raise ValueError(f"batch × heads is {self.batch * self.heads}: at most {MAX_ROWS}")
        reference.check_window(self.window)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(B, H, T, D)``."""
        return self.batch, self.heads, self.tokens, self.head_dim

    def grid(self, queries: int) -> tuple[int, int, int]:
        """How many programs run, along each axis, with ``queries`` queries in each."""
        return -(-self.tokens // queries), self.batch * self.heads, 1

    def numbers(self) -> dict[str, int | float]:
        """The arguments that are numbers, by name."""
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        return {
            "heads": self.heads,
            "tokens": self.tokens,
            # A window of all tokens is no window: the kernel needs no second case.
            "window": self.tokens if self.window is None else min(self.window, self.tokens),
            "scale": scale * LOG2_E,
        }


def precision(dtype: Dtype, backend: Backend) -> str:
    """How products are formed.

    Hopper's matrix units know no fp32: three products of tf32 keep nearly all of its bits. AMD's
    take fp32 as it is.
    """
    return "tf32x3" if dtype == "fp32" and backend == "cuda" else "ieee"


def signature(dtype: Dtype) -> dict[str, str]:
    """The types of a launch's arguments, by name, in Triton's words."""
    words = {"tensor": f"*{dtype}", "lengths": "*i32", "i32": "i32", "fp32": "fp32"}
    return {name: words[kind] for name, kind in ARGUMENTS}


@cache
def kernel() -> Any:
    """The kernel as Triton's decorator returns it: an interpreter where ``TRITON_INTERPRET`` is 1.

    Raises:
        ModuleNotFoundError: Triton is not installed here; the message says where it is.
    """
    try:
        from kernels.attention import triton_kernel  # noqa: PLC0415 -- it imports triton
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "triton is not installed here: use .venv-triton/bin/python, which make test creates, "
            "or pip install 'pointsman[triton]' in an environment of its own"
        ) from missing
    return triton_kernel.flash_attention


def interpret(
    query: npt.NDArray[Any],
    key: npt.NDArray[Any],
    value: npt.NDArray[Any],
    *,
    lengths: npt.NDArray[np.integer] | None = None,
    window: int | None = None,
    scale: float | None = None,
    blocks: Blocks | None = None,
) -> npt.NDArray[Any]:
    """:func:`kernels.attention.reference.attend` by the kernel's source, on the CPU, slowly.

    Args:
        query: Of shape ``(B, H, T, D)``: float32, float16, or bfloat16 as uint16; so are the rest.
        key: See ``query``.
        value: See ``query``.
        lengths: Of shape ``(B,)``; None: all tokens are real.
        window: None: no window.
        scale: None: ``1 / sqrt(D)``.
        blocks: How the work is cut.

    Returns:
        Of the shape and the type of ``query``.

    Raises:
        RuntimeError: ``TRITON_INTERPRET=1`` was not set before Triton was imported.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("the interpreter is off: start Python with TRITON_INTERPRET=1")
    reference.check_shapes(query.shape, key.shape, value.shape)
    batch, heads, tokens, size = query.shape
    problem = Problem(batch, heads, tokens, size, window, scale)
    real = np.full(batch, tokens) if lengths is None else lengths
    reference.check_lengths(real, batch=batch, tokens=tokens)
    cut = blocks or Blocks()
    # What is not written stays nan, so that a check sees it.
    out = np.full_like(query, np.nan if query.dtype.kind == "f" else 0x7FC0, order="C")
    parts = (query, key, value, real.astype(np.int32), out)
    kernel()[problem.grid(cut.queries)](
        *(Lent(np.ascontiguousarray(part)) for part in parts[:-1]),
        Lent(out),
        **problem.numbers(),
        head_dim=size,
        queries=cut.queries,
        keys=cut.keys,
        precision="ieee",
        widen=query.dtype == np.uint16,
    )
    return out


class Lent:
    """An array, to the interpreter a tensor: it asks for an address, and copies to and fro.

    An array is on the CPU already, so each copy is the array itself.
    """

    TYPES = {"float32": "fp32", "float16": "fp16", "uint16": "bf16", "int32": "i32"}  # noqa: RUF012

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.dtype = self.TYPES[array.dtype.name]

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def untyped_storage(self) -> "Lent":
        return self

    def cpu(self) -> "Lent":
        return self

    def new_empty(self, *_: object, **__: object) -> "Lent":
        return self

    def set_(self, *_: object) -> None:
        """It holds these already."""

    def copy_(self, _: object) -> None:
        """It holds these already."""

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return self.array.strides


def to_bfloat16(array: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """The upper halves of float32, rounded to the nearest, ties to even; nan stays nan."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(array: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Float32 with these upper halves."""
    widened: npt.NDArray[np.float32] = (array.astype(np.uint32) << 16).view(np.float32)
    return widened
