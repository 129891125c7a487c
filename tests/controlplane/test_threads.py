import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from controlplane.threads import one_thread
from learners import linucb
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.interactions import Interactions


def blas_threads() -> set[int]:
    return {row["num_threads"] for row in threadpool_info() if row["user_api"] == "blas"}


@pytest.fixture(name="log", scope="module")
def _log() -> Interactions:
    random, n, k, d = np.random.default_rng(0), 3_000, 3, 120
    x = random.normal(size=(n, d + 1))
    x[:, 0] = 1.0
    return Interactions(
        arms=("a", "b", "c"),
        x=x,
        eligible=np.ones((n, k), dtype=np.bool_),
        action=np.arange(n) % k,
        propensity=np.full(n, 1 / k),
        reward=random.random(n),
        weight=np.ones(n),
    )


def test_the_same_log_gives_the_same_bytes_however_many_threads_there_are(log: Interactions):
    spec = Spec(Schema((Feature("v", "vector", size=120),)), log.arms)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"), one_thread():
            state = linucb.learn(linucb.init(spec), log)
            found.append((linucb.snapshot(state), linucb.freeze(state).weights.tobytes()))
    assert found[0] == found[1]


def test_the_threads_are_given_back():
    with threadpool_limits(2, "blas"):
        with one_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {2}
