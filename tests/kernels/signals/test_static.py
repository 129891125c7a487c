from pathlib import Path

import numpy as np
import pytest

from kernels.signals import reask
from kernels.signals.static import StaticTable, TableError

ROWS = np.array([[3, 4], [1, 0], [0, 1], [0, 0]], dtype=np.float16)


def test_a_text_is_the_mean_of_its_tokens_at_length_one() -> None:
    found = StaticTable(ROWS).embed([1, 2])
    np.testing.assert_allclose(found, [0.5**0.5, 0.5**0.5], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("ids", [[], [3], [3, 3]])
def test_a_text_without_weight_is_all_zeros(ids: list[int]) -> None:
    assert StaticTable(ROWS).embed(ids).tolist() == [0.0, 0.0]


def test_a_table_is_mapped_from_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", ROWS)
    table = StaticTable.open(tmp_path / "t.npy")
    assert (table.vocabulary, table.dims) == (4, 2)
    np.testing.assert_allclose(table.embed([0]), [0.6, 0.8], rtol=1e-3)


def test_a_table_of_another_type_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", ROWS.astype(np.float64))
    with pytest.raises(TableError, match="float16"):
        StaticTable.open(tmp_path / "t.npy")
    (tmp_path / "bad.npy").write_bytes(b"no table")
    with pytest.raises(TableError):
        StaticTable.open(tmp_path / "bad.npy")


def test_the_nearest_earlier_turn_counts() -> None:
    current = np.array([1, 0], dtype=np.float32)
    far, near = np.array([0, 1], dtype=np.float32), np.array([0.8, 0.6], dtype=np.float32)
    assert reask.nearest(current, [far, near, far]) == pytest.approx(0.8)
    assert reask.nearest(current, [-current]) == 0.0
    assert reask.nearest(current, []) == 0.0
