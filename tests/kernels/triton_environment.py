"""Triton's own environment, which ``make test`` creates beside the main one."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-triton" / "bin" / "python"

needs_triton = pytest.mark.skipif(
    not PYTHON.exists(), reason="make test creates .venv-triton, and it is not there"
)


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Triton's Python in the checkout."""
    return subprocess.run(
        [str(PYTHON), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
