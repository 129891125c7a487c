from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.signals.heads import Head, HeadBank, HeadError
from learners.head_fitting import fit
from learners.heads import HeadKind, HeadModel

Floats = NDArray[np.float32]
D = 12


def numbers(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax_head(name: str = "domain", **given: Any) -> Head:
    head = {"weights": numbers(1, 3, D), "bias": numbers(2, 3), **given}
    return Head(name, ("law", "health", "other"), "embedding", **head)


def binary_head(name: str = "unsafe", **given: Any) -> Head:
    head = {"weights": numbers(3, 1, D), "bias": numbers(4, 1), "kind": "binary", **given}
    return Head(name, ("no", "yes"), "embedding", **head)


@pytest.mark.parametrize("kind", ["softmax", "binary", "ood"])
def test_a_served_head_gives_the_chances_that_its_training_gave(kind: HeadKind) -> None:
    rng = np.random.default_rng(5)
    classes = {"softmax": ("a", "b", "c"), "binary": ("no", "yes"), "ood": ("a", "b")}[kind]
    labels = rng.integers(0, len(classes), 200)
    x = rng.normal(size=(200, D)) + 2.0 * np.eye(3, D)[labels]
    trained: HeadModel = fit(x, labels, kind=kind, classes=classes)
    served = Head(
        "h",
        trained.classes,
        "embedding",
        trained.weights.astype(np.float32),
        trained.bias.astype(np.float32),
        kind=kind,
        temperature=1.7,
        spread=None if trained.spread is None else trained.spread.astype(np.float32),
    )
    wanted = HeadModel(
        kind, trained.classes, trained.weights, trained.bias, 1.7, spread=trained.spread
    )
    bank = HeadBank([served])
    for row in x[:20]:
        found = bank.read({"embedding": row.astype(np.float32)})
        chances = wanted.probabilities(row[None])[0]
        if kind == "ood":
            assert found == {"ood.h": pytest.approx(chances[1], abs=1e-4)}
        else:
            told = [found[f"h.{name}"] for name in trained.classes]
            assert told == pytest.approx(chances.tolist(), abs=1e-5)
            assert found["h"] == trained.classes[wanted.says(row[None])[0]]


def test_heads_of_one_vector_do_not_disturb_each_other() -> None:
    vector = {"embedding": numbers(6, D)}
    together = HeadBank([softmax_head(), binary_head(), softmax_head("other")]).read(vector)
    for head in (softmax_head(), binary_head(), softmax_head("other")):
        alone = HeadBank([head]).read(vector)
        assert {name: together[name] for name in alone} == pytest.approx(alone)


def test_a_child_is_read_only_where_its_parent_finds_something() -> None:
    parent = binary_head(weights=np.eye(1, D, dtype=np.float32), bias=np.zeros(1, np.float32))
    child = softmax_head("kind_of_harm", parent="unsafe")
    bank = HeadBank([child, parent])
    unsafe, safe = np.zeros(D, np.float32), np.zeros(D, np.float32)
    unsafe[0], safe[0] = 3.0, -3.0
    assert bank.read({"embedding": safe})["unsafe"] == "no"
    assert "kind_of_harm" not in bank.read({"embedding": safe})
    found = bank.read({"embedding": unsafe})
    assert found["unsafe"] == "yes"
    assert found["kind_of_harm"] in child.classes


def test_a_threshold_moves_the_answer_and_not_the_chance() -> None:
    vector = {"embedding": numbers(6, D)}
    chance = HeadBank([binary_head()]).read(vector)["unsafe.yes"]
    assert isinstance(chance, float)
    below = HeadBank([binary_head(threshold=min(0.999, chance + 1e-3))]).read(vector)
    above = HeadBank([binary_head(threshold=max(0.001, chance - 1e-3))]).read(vector)
    assert (below["unsafe"], above["unsafe"]) == ("no", "yes")
    assert below["unsafe.yes"] == above["unsafe.yes"] == chance


def test_a_vector_that_is_not_there_leaves_its_heads_out() -> None:
    bank = HeadBank([softmax_head()])
    assert bank.read({"static": numbers(6, D)}) == {}
    assert bank.dimensions == {"embedding": D}


def test_large_logits_stay_finite() -> None:
    found = HeadBank([softmax_head(), binary_head()]).read({"embedding": 1e6 * numbers(6, D)})
    told = [value for value in found.values() if isinstance(value, float)]
    assert np.isfinite(told).all()
    assert sum(told) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("heads", "named"),
    [
        ([softmax_head(), softmax_head()], "each name once"),
        ([softmax_head("child", parent="nobody")], "nobody"),
        ([softmax_head(), softmax_head("child", parent="domain")], "binary"),
        ([softmax_head(), binary_head(weights=numbers(3, 1, D + 1))], "one vector"),
    ],
)
def test_heads_that_do_not_go_together_are_refused(heads: list[Head], named: str) -> None:
    with pytest.raises(HeadError, match=named):
        HeadBank(heads)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"weights": numbers(1, 2, D)}, "weights"),
        ({"weights": np.full((3, D), np.nan, np.float32)}, "NaN"),
        ({"temperature": 0.0}, "temperature"),
        ({"threshold": 1.0}, "threshold"),
        ({"kind": "knn"}, "kind"),
        ({"spread": numbers(1, 2, D)}, "spread"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(HeadError, match=named):
        softmax_head(**given)
