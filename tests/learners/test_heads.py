"""Heads as matrices, and as a part of a bundle."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learners.bundle import seal, unseal
from learners.errors import BundleError, HeadError
from learners.head_bank import HeadGuard, Heads, ServedHead, golden, single, vector_of
from learners.head_fitting import fit
from learners.heads import HeadModel
from tests.learners.test_bundle import make_bundle

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def binary(*, weight: float = 3.0) -> HeadModel:
    return single(HeadModel("binary", ("no", "yes"), np.array([[weight, -1.0]]), np.zeros(1)))


def served(name: str, model: HeadModel, **more: object) -> ServedHead:
    given = {"golden": golden(model), **more}
    return ServedHead(name, 1, "terms", model, **given)  # type: ignore[arg-type]


def test_a_softmax_head_gives_chances_that_sum_to_one() -> None:
    model = HeadModel("softmax", ("a", "b", "c"), np.eye(3), np.array([0.0, 0.0, 1.0]), 0.5)
    chances = model.probabilities(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    weights = np.exp(np.array([[2.0, 0.0, 2.0], [0.0, 0.0, 2.0]]))
    np.testing.assert_allclose(chances, weights / weights.sum(axis=1, keepdims=True))


def test_a_binary_head_says_its_second_class_from_the_threshold_on() -> None:
    model = binary()
    x = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(model.probabilities(x)[:, 1], 1 / (1 + np.exp([0.0, -3.0, 3.0])))
    assert model.says(x).tolist() == [1, 1, 0]
    assert model.with_threshold(0.9).says(x).tolist() == [0, 1, 0]


def test_an_ood_head_measures_the_distance_to_the_nearest_mean() -> None:
    random = np.random.default_rng(0)
    means = np.array([[3.0, 0.0], [0.0, 3.0]])
    labels = np.repeat([0, 1], 400)
    x = means[labels] + random.normal(size=(800, 2)) * [1.0, 0.2]
    model = fit(x, labels, kind="ood", classes=("a", "b"))
    own = np.array([x[labels == c].mean(axis=0) for c in (0, 1)])
    apart = x - own[labels]
    inverse = np.linalg.inv(apart.T @ apart / len(x))
    at = np.array([[3.0, 1.0], [0.0, 2.0], [8.0, 8.0]])
    gaps = at[:, None, :] - own[None]
    wanted = np.einsum("nci,ij,ncj->nc", gaps, inverse, gaps).min(axis=1)
    # The covariance is shrunk a little towards a multiple of the identity.
    np.testing.assert_allclose(model.logits(at), wanted, rtol=0.06)


def test_a_head_refuses_what_does_not_fit() -> None:
    with pytest.raises(HeadError, match=r"kind 'tree'"):
        HeadModel("tree", ("a", "b"), np.eye(2), np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(HeadError, match="a binary head has 2 classes"):
        HeadModel("binary", ("a", "b", "c"), np.eye(3), np.zeros(3))
    with pytest.raises(HeadError, match="of these classes has 3"):
        HeadModel("softmax", ("a", "b", "c"), np.eye(2), np.zeros(2))
    with pytest.raises(HeadError, match="has no spread"):
        HeadModel("softmax", ("a", "b"), np.eye(2), np.zeros(2), spread=np.eye(2))
    with pytest.raises(HeadError, match="NaN or infinity"):
        HeadModel("softmax", ("a", "b"), np.eye(2) * np.nan, np.zeros(2))
    with pytest.raises(HeadError, match=r"give \(n, 2\)"):
        binary().probabilities(np.zeros((1, 3)))


def test_a_bundle_brings_its_heads_and_what_they_guard() -> None:
    random = np.random.default_rng(1)
    ood = single(
        fit(random.normal(size=(50, 2)), np.zeros(50, np.int64), kind="ood", classes=("a",))
    )
    heads = Heads(
        (served("unsafe", binary()), served("why", binary(), parent="unsafe"), served("odd", ood)),
        (("embedding", 384),),
        (HeadGuard("unsafe", 0.7, "safe"),),
    )
    bundle = replace(make_bundle(), heads=heads)
    data = seal(bundle, [KEY])
    assert seal(bundle, [KEY]) == data
    found = unseal(data, [KEY.public_key()])
    found.self_test()
    assert found.digest == bundle.digest
    assert found.heads.guards == heads.guards
    assert found.heads.logged == heads.logged
    assert found.heads.by_name["why"].parent == "unsafe"
    x = random.normal(size=(5, 2))
    for name, one in heads.by_name.items():
        np.testing.assert_array_equal(
            found.heads.by_name[name].model.probabilities(x), one.model.probabilities(x)
        )


def test_a_bundle_without_heads_says_nothing_of_them() -> None:
    assert b'"heads"' not in seal(make_bundle(), [KEY])


def test_a_head_that_computes_otherwise_fails_the_self_test() -> None:
    one = served("unsafe", binary())
    other = replace(one, model=binary(weight=3.01))
    bundle = replace(make_bundle(), heads=Heads((other,)))
    with pytest.raises(BundleError, match=r"head 'unsafe' is off by"):
        unseal(seal(bundle, [KEY]), [KEY.public_key()]).self_test()
    bare = replace(make_bundle(), heads=Heads((replace(one, golden=()),)))
    with pytest.raises(BundleError, match="off by inf"):
        bare.self_test()


def test_heads_of_a_bundle_refuse_what_they_cannot_mean() -> None:
    one = served("unsafe", binary())
    with pytest.raises(HeadError, match="give each once"):
        Heads((one, one))
    with pytest.raises(HeadError, match="must come first"):
        Heads((served("why", binary(), parent="unsafe"), one))
    odd = fit(np.eye(2), np.zeros(2, np.int64), kind="ood", classes=("a",))
    with pytest.raises(HeadError, match="an ood head has none"):
        Heads((one, served("odd", odd, parent="unsafe")))
    with pytest.raises(HeadError, match="small letters"):
        served("un.safe", binary())
    with pytest.raises(HeadError, match="at_least"):
        HeadGuard("unsafe", 0.0, "safe")


def test_a_vector_of_a_context_counts_only_in_its_own_length() -> None:
    assert vector_of({"terms": [1, 2.0]}, "terms", 2) is not None
    for context in ({}, {"terms": [1.0]}, {"terms": ["a", "b"]}, {"terms": [1.0, float("nan")]}):
        assert vector_of(context, "terms", 2) is None
