import numpy as np
import pytest

from bench import rivals_greenserv as greenserv
from bench.rivals import domain_codes
from controlplane.replay_loop import prepare
from controlplane.simulation.tables import Table

TEXTS = ("solve the equation", "write a poem about autumn leaves and rain", "law")


def a_table(n: int, *, texts: bool = True) -> Table:
    """Model 0 knows law, model 1 all else."""
    law = np.arange(n) % 2 == 0
    return Table(
        query_ids=tuple(f"q{i}" for i in range(n)),
        texts=tuple(f"{TEXTS[i % 3]} {'more ' * (i % 7)}" for i in range(n)) if texts else None,
        domains=tuple("law" if one else "maths" for one in law),
        arms=("first", "second"),
        scores=np.column_stack([law, ~law]).astype(float),
        costs_usd=np.zeros((n, 2)),
    )


@pytest.fixture(name="course")
def _course():
    return prepare(a_table(120), a_table(20), "score")


def test_its_scores_are_linucbs_closed_form(course):
    rival = greenserv.make(course, 0)
    random = np.random.default_rng(1)
    size = rival._context.size
    gram = np.stack([np.eye(size) * greenserv.REGULARISATION] * 2)
    moment = np.zeros((2, size))
    for row in range(60):
        x = np.zeros(size)
        x[rival._active[row]] = 1.0
        inverse = np.linalg.inv(gram)
        theta = np.einsum("kde,ke->kd", inverse, moment)
        bonus = greenserv.ALPHA * np.sqrt(np.einsum("d,kde,e->k", x, inverse, x))
        bound = theta @ x + bonus
        if abs(bound[0] - bound[1]) > 1e-9:
            assert rival.choose(row) == int(bound.argmax())
        arm, reward = int(random.integers(2)), float(random.random())
        rival.update(row, arm, reward)
        gram[arm] += np.outer(x, x)
        moment[arm] += reward * x
    assert np.allclose(rival._inverse, np.linalg.inv(gram))
    assert np.allclose(rival._weights, np.einsum("kde,ke->kd", np.linalg.inv(gram), moment))


def test_a_context_has_one_task_one_cluster_and_one_bin(course):
    context = greenserv.make(course, 0)._context
    domains = domain_codes(course, course.train.domains, 120)
    active = context.active(course.train.x, domains)
    assert (active[:, 0] == domains).all()
    clusters = active[:, 1] - 3
    assert set(clusters) <= set(range(greenserv.CLUSTERS))
    assert len(set(clusters)) > 1
    assert set(active[:, 2] - 3 - greenserv.CLUSTERS) == {0, 1, 2}
    assert context.size == 3 + greenserv.CLUSTERS + greenserv.BINS


@pytest.mark.parametrize("texts", [True, False])
def test_over_a_table_it_finds_the_model_of_each_domain(texts):
    course = prepare(a_table(200, texts=texts), a_table(20, texts=texts), "score")
    rival = greenserv.make(course, 0)
    for row in range(200):
        arm = rival.choose(row)
        rival.update(row, arm, float(course.train.rewards[row, arm]))
    chosen = rival.choices(course.test.x, domain_codes(course, course.test.domains, 20))
    assert chosen.tolist() == [0, 1] * 10
