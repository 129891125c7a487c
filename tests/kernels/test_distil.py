import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.distil import BATCH, distil

VOCABULARY, D = BATCH + 100, 8
VECTORS = np.random.default_rng(3).normal(size=(VOCABULARY, D)).astype(np.float32)


def embed(ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """An encoder that knows each token, and that its frame is 5 and 6."""
    assert ids.shape[1] == 3
    assert set(ids[:, 0]) == {5}
    assert set(ids[:, 2]) == {6}
    return VECTORS[ids[:, 1]]


def test_all_axes_keep_the_distances_between_equally_frequent_tokens() -> None:
    table = distil(embed, vocabulary=VOCABULARY, frame=(5, 6), dims=D, smoothing=1e6)
    assert table.dtype == np.float16
    told = np.linalg.norm(table[0].astype(float) - table[1:].astype(float), axis=1)
    true = np.linalg.norm(VECTORS[0] - VECTORS[1:], axis=1)
    np.testing.assert_allclose(told, true, rtol=5e-3)


def test_frequent_tokens_weigh_less() -> None:
    even = distil(embed, vocabulary=VOCABULARY, frame=(5, 6), dims=D, smoothing=1e6)
    table = distil(embed, vocabulary=VOCABULARY, frame=(5, 6), dims=D, smoothing=1e-3)
    weights = np.linalg.norm(table.astype(float), axis=1) / np.linalg.norm(
        even.astype(float), axis=1
    )
    assert weights[0] < 0.05
    assert (np.diff(weights[:50]) > 0).all()


def test_the_axes_kept_are_those_of_the_largest_spread() -> None:
    def stretched(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return embed(ids) * np.array([1, 1, 1, 9, 1, 1, 1, 1], dtype=np.float32)

    table = distil(stretched, vocabulary=VOCABULARY, frame=(5, 6), dims=1, smoothing=1e6)
    agreement = np.corrcoef(table[:, 0].astype(float), VECTORS[:, 3])[0, 1]
    assert abs(agreement) > 0.99


def test_more_axes_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="dims"):
        distil(embed, vocabulary=2, frame=(5, 6), dims=3)
