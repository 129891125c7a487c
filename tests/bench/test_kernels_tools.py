import numpy as np
import pytest

from bench import kernels_tools, tables
from bench.kernels_tools import Split
from kernels.tools import LEAST


class Drawn:
    """A table of 40 tools with 30 rows each, without texts."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.names = [f"tool-{number}" for number in range(40)]
        self.tool = np.repeat(np.arange(40), 30)
        vectors = rng.normal(size=(len(self.tool) + 40, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.queries = vectors[40:].astype(np.float32)
        self.tools = vectors[:40].astype(np.float32)


def test_no_row_both_teaches_and_judges():
    split = Split.of(Drawn(), 0)
    assert not set(split.log.tolist()) & set(split.test.tolist())
    assert len(split.log) + len(split.test) == 40 * 30


def test_the_sparse_setting_has_tools_without_outcomes_and_tools_with_few():
    table = Drawn()
    whole = Split.of(table, 0)
    split = whole.thinned(table, 0)
    logged = np.bincount(table.tool[split.log], minlength=40)
    assert (logged == 0).sum() == 8
    assert ((logged > 0) & (logged < LEAST)).sum() == 8
    assert set(split.log.tolist()) < set(whole.log.tolist())
    np.testing.assert_array_equal(split.test, whole.test)


def test_failures_are_the_wrong_first_choices_of_the_logged_rows():
    table = Drawn()
    split = Split.of(table, 0)
    log = kernels_tools.outcomes(table, split)
    first = (log.queries @ table.tools.T).argmax(axis=1)
    assert (log.tool[log.success] == table.tool[split.log]).all()
    failed = log.query[~log.success]
    assert (log.tool[~log.success] == first[failed]).all()
    assert (first[failed] != table.tool[split.log][failed]).all()


def test_without_tables_nothing_is_measured(monkeypatch):
    monkeypatch.delenv("POINTSMAN_BENCH_DATA", raising=False)
    assert kernels_tools.run(quick=True) == []


def test_refined_tools_reach_their_goals_on_unseen_queries():
    place = tables.folder()
    if place is None:
        pytest.skip("POINTSMAN_BENCH_DATA is not set: no table of tools")
    pytest.importorskip("onnxruntime")
    table = kernels_tools.Table(place)
    found = {one.measure: one for one in kernels_tools.known(table, (0,))}
    goals = [one for one in found.values() if one.goal]
    assert goals
    assert all(one.holds for one in goals)
