"""The attention kernel on a card: built for it, held to the oracle, its time and its memory.

Inputs are drawn from fixed seeds, so each trial is the same on all cards.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.attention import reference
from kernels.attention.launch import Attention
from kernels.attention.triton_flash import Dtype, Problem, from_bfloat16, to_bfloat16

Array = npt.NDArray[Any]

ROOT = Path(__file__).parent.parent.parent
TRITON = ROOT / ".venv-triton" / "bin" / "python"
BUILD_LIMIT_S = 600
BOUNDS: Mapping[Dtype, float] = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 2e-2}
"""Largest difference from the oracle: what rounding of inputs of length 1 may do."""
HEADS = 12
HEAD_DIM = 32
"""Of the heads that are tried: MiniLM's."""
WINDOW = 64
LONG_TOKENS = 8_192
MOST_SCORES_SHARE = 0.05
"""Of the memory that naive attention's scores take, what a launch may."""
SMALL: tuple[tuple[int, int | None], ...] = ((333, None), (500, WINDOW), (64, 0), (1, None))
"""Tokens and windows that are held to the oracle: whole blocks, parts of blocks, one token."""


class MissingTritonError(Exception):
    """No kernel can be built: Triton's own environment is not there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes of the card that a launch takes beside its arrays, and those of naive's scores."""

    launch: int
    naive: int

    @property
    def holds(self) -> bool:
        """Whether a launch takes next to nothing."""
        return self.launch <= MOST_SCORES_SHARE * self.naive


def build(target: str, out: Path) -> Path:
    """Compile the kernels of a target with heads of :data:`HEAD_DIM` into a folder.

    Raises:
        MissingTritonError: Triton's environment is not there.
        RuntimeError: The compiler failed; the message holds what it said.
    """
    if not TRITON.exists():
        raise MissingTritonError(f"{TRITON} is not there: make test creates it")
    module = ["-m", "kernels.aot", "--out", str(out), "--target", target]
    command = [str(TRITON), *module, "--head-dim", str(HEAD_DIM)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=BUILD_LIMIT_S
    )
    # 1 means that a kernel spills: it runs all the same.
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"kernels.aot ended with {done.returncode}: {done.stderr.strip()}")
    return out


def difference(attention: Attention) -> float:
    """The largest difference from the float64 oracle at small sizes; infinity where one is nan."""
    dtype = attention.about.dtype
    worst = 0.0
    for tokens, window in SMALL:
        given = [as_type(part, dtype) for part in draw(2, 3, tokens)]
        rounded = [from_type(part, dtype) for part in given]
        lengths = np.array([tokens, tokens // 2])
        query, key, value = given
        answered = attention.attend(query, key, value, lengths=lengths, window=window)
        wanted = reference.attend(*rounded, lengths=lengths, window=window)
        apart = np.abs(from_type(answered, dtype) - wanted)
        worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
    return worst


def seconds(attention: Attention, tokens: int, *, rounds: int = 5, calls: int = 10) -> list[float]:
    """Median seconds of a launch over all tokens of one text, and of one within the window."""
    query, key, value = _long(attention, tokens)
    with attention.placed(query, key, value, np.array([tokens])) as addresses:
        return [
            attention.seconds(
                Problem(1, HEADS, tokens, HEAD_DIM, window=window),
                addresses,
                rounds=rounds,
                calls=calls,
            )
            for window in (None, WINDOW)
        ]


def memory(attention: Attention, tokens: int) -> Taken:
    """What a launch over all tokens of one text takes beyond its inputs and its output."""
    query, key, value = _long(attention, tokens)
    card = attention.card
    with attention.placed(query, key, value, np.array([tokens])) as addresses:
        before = card.free_bytes()
        attention.start(Problem(1, HEADS, tokens, HEAD_DIM), addresses)
        card.wait()
        taken = before - card.free_bytes()
    return Taken(taken, HEADS * tokens * tokens * query.itemsize)


def draw(batch: int, heads: int, tokens: int) -> list[npt.NDArray[np.float32]]:
    """Queries, keys and values of shape ``(B, H, T, HEAD_DIM)``."""
    rng = np.random.default_rng(tokens)
    shape = (batch, heads, tokens, HEAD_DIM)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


def as_type(part: npt.NDArray[np.floating[Any]], dtype: Dtype) -> Array:
    """Rounded to a number type; bfloat16 as uint16."""
    if dtype == "bf16":
        return to_bfloat16(part)
    return part.astype(np.float16 if dtype == "fp16" else np.float32)


def from_type(part: Array, dtype: Dtype) -> Array:
    """Back to numbers that numpy computes with."""
    return from_bfloat16(part) if dtype == "bf16" else part.astype(np.float64)


def _long(attention: Attention, tokens: int) -> list[Array]:
    return [as_type(part, attention.about.dtype) for part in draw(1, HEADS, tokens)]
