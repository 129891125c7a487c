"""`pointsman models`: bring, list and check the files of the encoder."""

import os
import sys
from collections.abc import Sequence

from kernels import models_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the models commands."""
    given = sys.argv[1:] if argv is None else argv
    return models_commands.run(given, os.environ, print, prog="pointsman models")
