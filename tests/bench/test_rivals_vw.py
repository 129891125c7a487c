import numpy as np
import pytest
from scipy import stats

from bench import rivals, rivals_vw
from controlplane.replay_loop import prepare
from controlplane.simulation.tables import Table


def a_table(n: int) -> Table:
    """Model 0 knows law, model 1 all else."""
    law = np.arange(n) % 2 == 0
    return Table(
        query_ids=tuple(f"q{i}" for i in range(n)),
        texts=None,
        domains=tuple("law" if one else "maths" for one in law),
        arms=("first", "second", "third"),
        scores=np.column_stack([law, ~law, np.zeros(n)]).astype(float),
        costs_usd=np.zeros((n, 3)),
    )


@pytest.fixture(name="course")
def _course():
    return prepare(a_table(600), a_table(40), "score")


def test_over_a_table_it_finds_the_model_of_each_domain(course):
    assert rivals.replay("VW SquareCB at its defaults", course, probes=20, seed=0) > 0.95


def test_the_same_seed_gives_the_same_rival(course):
    def pass_over() -> list[int]:
        rival = rivals_vw.make(course, 4)
        arms = []
        for row in range(80):
            arms.append(rival.choose(row))
            rival.update(row, arms[-1], float(course.train.rewards[row, arms[-1]]))
        return arms

    assert pass_over() == pass_over()


def test_it_draws_by_its_own_probabilities(course):
    rival = rivals_vw.make(course, 0)
    for row in range(30):
        for arm in range(3):
            rival.update(row, arm, float(course.train.rewards[row, arm]))
    spread = rival._spread(course.train.x[0])
    assert spread.sum() == pytest.approx(1.0)
    drawn = np.bincount([rival.choose(0) for _ in range(3_000)], minlength=3)
    # One chi-square test; false alarm 1 in 10,000.
    assert stats.chisquare(drawn, 3_000 * spread).pvalue > 1e-4
    assert rival.choices(course.train.x[:2], np.zeros(2, dtype=np.int64)).tolist() == [0, 1]
