"""The second tier: a text's vector as the mean of its tokens' rows, with no model to run.

The rows are made by :mod:`kernels.distil`, which weighs each token already.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MAX_ROWS = 1_000_000
MAX_DIMS = 4096
_LEAST = 1e-12


class TableError(ValueError):
    """A file is no table of token vectors."""


class StaticTable:
    """A vector for each token, mapped from its file: processes on one machine share its memory.

    Args:
        rows: ``(vocabulary, d)`` half-precision numbers.

    Raises:
        TableError: It has another shape or type.
    """

    def __init__(self, rows: NDArray[np.float16]) -> None:
        fits = rows.ndim == 2 and 0 < rows.shape[0] <= MAX_ROWS and 0 < rows.shape[1] <= MAX_DIMS
        if not fits or rows.dtype != np.float16:
            raise TableError(f"a table of {rows.dtype} {rows.shape}: give float16 (tokens, d)")
        # A memmap's own indexing costs more than the sum; its view reads the same pages.
        self._rows = np.asarray(rows).view(np.ndarray)

    @classmethod
    def open(cls, path: Path) -> "StaticTable":
        """Map a table's file.

        Raises:
            TableError: It is no table.
        """
        try:
            return cls(np.load(path, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            raise TableError(f"{path}: {error}") from error

    @property
    def dims(self) -> int:
        """Length of a vector."""
        return int(self._rows.shape[1])

    @property
    def vocabulary(self) -> int:
        """How many tokens have a row."""
        return int(self._rows.shape[0])

    def embed(self, ids: Sequence[int]) -> Floats:
        """The mean of the tokens' rows, of Euclidean length 1; all 0 for no tokens.

        Args:
            ids: tokens of the text alone, each below :attr:`vocabulary`.
        """
        if not ids:
            return np.zeros(self.dims, dtype=np.float32)
        total: Floats = self._rows[np.asarray(ids)].sum(axis=0, dtype=np.float32)
        length = float(np.sqrt(total @ total))
        return total / np.float32(max(length, _LEAST))
