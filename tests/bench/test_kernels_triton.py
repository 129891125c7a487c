"""What the benchmark makes of the compiler's rows."""

import pytest

from bench import kernels_triton
from bench.kernels_triton import measures
from kernels.aot import TARGETS


def row(**changes):
    usual = {
        "target": "gfx942",
        "seconds": 0.5,
        "registers": {"vgpr": 132, "agpr": 32, "sgpr": 56},
        "spills": {"vgpr": 0, "sgpr": 0, "bytes": 0},
        "shared_bytes": 8192,
        "matrix_instructions": 16,
    }
    return {**usual, **changes}


def test_the_worst_kernel_of_a_target_is_told():
    worse = row(shared_bytes=65_536, registers={"vgpr": 200}, matrix_instructions=8)
    found = {one.measure.split(": ")[1]: one for one in measures("gfx942", [row(), worse])}
    assert found["registers of a thread, most"].value == 200
    assert found["shared memory, most"].value == 64
    assert found["matrix instructions, fewest"].value == 8
    assert all(one.holds is not False for one in found.values())


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"spills": {"sgpr": 3}}, "gfx942: registers and bytes spilled, most"),
        ({"matrix_instructions": 0}, "gfx942: matrix instructions, fewest"),
        ({"shared_bytes": 70_000}, "gfx942: shared memory, most"),
    ],
)
def test_a_goal_that_is_missed_is_told_as_missed(changes, missed: str):
    found = measures("gfx942", [row(), row(**changes)])
    assert [one.measure for one in found if one.holds is False] == [missed]


def test_each_target_that_is_built_has_its_limits():
    assert set(kernels_triton.MOST_REGISTERS) == set(TARGETS)
    assert set(kernels_triton.MOST_SHARED_KIB) == set(TARGETS)
