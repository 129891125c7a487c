"""MiniLM's vectors of many texts, kept between runs in the machine's folder for temporary files."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels import models
from kernels.models_build import build
from kernels.signals.encoder import CAP
from kernels.signals.opening import open_parts

Floats = NDArray[np.float32]


def root() -> Path:
    """The models folder, or one among temporary files, made where neither is there.

    One among temporary files is built anew where another version built it.
    """
    found = models.default_root(os.environ)
    if models.is_there(found):
        return found
    spare = Path(tempfile.gettempdir()) / f"pointsman-bench-models-{os.getuid()}"
    if not models.is_there(spare) or models.outdated(spare):
        models.fetch(spare, build)
    return spare


def embed(texts: Sequence[str]) -> Floats:
    """Vectors ``(n, 384)`` of Euclidean length 1, kept for the encoder that made them."""
    named = "\0".join([models.encoder_of(root()), *texts])
    digest = hashlib.blake2b(named.encode(), digest_size=12).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"pointsman-bench-vectors-{os.getuid()}"
    kept = folder / f"{digest}.npy"
    if kept.is_file():
        known: Floats = np.load(kept, allow_pickle=False)
        return known
    parts = open_parts(root())
    ids = [parts.tokens.framed(parts.tokens.ids(text), CAP) for text in texts]
    vectors = parts.encoder.embed_all(ids).astype(np.float32)
    folder.mkdir(mode=0o700, exist_ok=True)
    fresh = folder / f"{digest}.{os.getpid()}.npy"
    np.save(fresh, vectors, allow_pickle=False)
    fresh.replace(kept)
    return vectors
