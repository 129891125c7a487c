"""Train on one thread: on two, sums are added up in another order and round differently."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 — only a library that is loaded can be limited
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's linear algebra use one thread in this process while the block runs.

    Variables such as ``OPENBLAS_NUM_THREADS`` would have to be set before numpy is loaded.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield
