"""Compute the prototypes that come with the program: ``python -m ... <models folder>``.

It is run by hand when the phrases or the encoder have changed. A test computes them too, and says
when what is shipped is not what it finds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kernels.signals.encoder import CAP
from kernels.signals.opening import open_parts
from kernels.signals.prototypes import FEEDBACK, FILE, Floats, packed, prototype_head


def build(models: Path) -> bytes:
    """The file, by the models of a folder.

    Raises:
        ModelsError: They are missing or damaged.
    """
    parts = open_parts(models)

    def embed(texts: Sequence[str]) -> Floats:
        ids = [parts.tokens.framed(parts.tokens.ids(one), CAP) for one in texts]
        # One by one, as an edge reads turns: an 8-bit encoder scales a whole batch alike.
        return np.array([parts.encoder.embed([one])[0] for one in ids])

    return packed(prototype_head("feedback", FEEDBACK, embed).weights)


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_bytes(build(Path(sys.argv[1])))
