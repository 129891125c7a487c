"""The kernel's source, run by Triton's interpreter on the CPU, against the oracle."""

import importlib.util
import json
from typing import Any

import numpy as np
import pytest

from kernels.attention import triton_flash
from kernels.attention.triton_flash import Blocks, Problem, from_bfloat16, to_bfloat16
from tests.kernels.triton_environment import needs_triton, run

BOUNDS = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}
"""Half a unit in the last place of numbers up to 4 is 1e-3 in fp16 and 8e-3 in bf16; the weights
are rounded too."""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    done = run("tests/kernels/interpreted.py", env={"TRITON_INTERPRET": "1", "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@needs_triton
def test_the_kernel_agrees_with_the_oracle_for_odd_shapes_windows_and_cuts(rows):
    assert len(rows["exact"]) == 30
    # A nan is not at most anything.
    assert {name: by for name, by in rows["exact"].items() if not by <= BOUNDS["fp32"]} == {}


@needs_triton
def test_half_and_brain_floats_differ_by_their_rounding_alone(rows):
    far = {name: by for name, by in rows["rounded"].items() if not by <= BOUNDS[name[:4]]}
    assert len(rows["rounded"]) == 12
    assert far == {}


@needs_triton
def test_blocks_outside_of_the_window_and_padding_are_never_computed(rows):
    assert len(rows["hidden"]) == 3
    assert {name: by for name, by in rows["hidden"].items() if not by <= BOUNDS["fp32"]} == {}


@needs_triton
def test_large_scores_and_another_scale_are_exact_too(rows):
    assert {name: by for name, by in rows["extreme"].items() if not by <= BOUNDS["fp32"]} == {}


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is not None, reason="triton is installed here"
)
def test_without_triton_the_message_says_where_it_is():
    with pytest.raises(ModuleNotFoundError, match=r"\.venv-triton/bin/python"):
        triton_flash.kernel()


def test_the_interpreter_asks_to_be_switched_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    part = np.zeros((1, 1, 1, 32), dtype=np.float32)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        triton_flash.interpret(part, part, part)


def test_the_grid_covers_each_query_once_and_each_head():
    assert Problem(2, 12, 129, 32).grid(64) == (3, 24, 1)
    assert Problem(1, 1, 1, 32).grid(64) == (1, 1, 1)
    assert Problem(1, 1, 128, 32).grid(64) == (2, 1, 1)


def test_no_window_is_a_window_of_all_tokens():
    assert Problem(1, 1, 9, 32).numbers()["window"] == 9
    assert Problem(1, 1, 9, 32, window=400).numbers()["window"] == 9
    assert Problem(1, 1, 9, 32, window=0).numbers()["window"] == 0


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((0, 1, 1, 32), "batch is 0"),
        ((1, 1, 1, 48), "head_dim is 48"),
        ((1, 1, (1 << 20) + 1, 32), "cut the text"),
        ((65_536, 1, 1, 32), "at most 65535"),
        ((1, 1, 1, 32, -2), "window is -2"),
    ],
)
def test_sizes_that_the_kernel_cannot_take_are_refused_by_name(sizes, said: str):
    with pytest.raises(ValueError, match=said):
        Problem(*sizes)


@pytest.mark.parametrize("wrong", [{"queries": 48}, {"keys": 8}, {"warps": 3}, {"stages": 0}])
def test_blocks_that_cannot_be_compiled_are_refused_by_name(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Blocks(**wrong)


def test_brain_floats_round_to_nearest_with_ties_to_even():
    # 1 + 2⁻⁸ lies halfway between 1 and 1 + 2⁻⁷: even is 1; 1 + 3 × 2⁻⁸ goes up to 1 + 2⁻⁶.
    given = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.5, np.inf, np.nan], dtype=np.float32)
    wanted = [1.0, 1.0, 1 + 2**-6, -2.5, np.inf, np.nan]
    assert from_bfloat16(to_bfloat16(given)).tolist() == pytest.approx(wanted, nan_ok=True)
