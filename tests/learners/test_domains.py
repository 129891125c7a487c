import numpy as np
import pytest

from learners.domains import Domains, domains_of
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.records import Context

SCHEMA = Schema(
    (
        Feature("chars", "number"),
        Feature("terms", "vector", size=2),
        Feature("domain", "category", values=("code", "law", "maths")),
        Feature("plan", "category", values=("free", "paid")),
    )
)
CONTEXTS: list[Context] = [
    {"domain": "law", "plan": "free", "chars": 3.0},
    {"domain": "code"},
    {"domain": "poetry", "plan": "paid", "terms": [1.0, -1.0]},
    {"plan": "paid"},
]


def test_each_context_falls_in_the_group_of_its_domain_and_the_rest_in_the_last():
    x = SCHEMA.encode_all(CONTEXTS)
    assert domains_of(SCHEMA, "domain").of(x).tolist() == [1, 0, 3, 3]
    assert domains_of(SCHEMA, "plan").of(x).tolist() == [0, 2, 1, 1]


def test_the_weights_score_each_group_with_its_value():
    x = SCHEMA.encode_all(CONTEXTS)
    domains = domains_of(SCHEMA, "domain")
    values = np.random.default_rng(0).normal(size=(2, 5, domains.groups))
    weights = domains.weights(values, SCHEMA.dimension)
    assert weights.shape == (2, 5, SCHEMA.dimension)
    assert np.allclose(weights @ x.T, values[..., domains.of(x)], rtol=0, atol=1e-12)


def test_a_policy_without_the_feature_is_one_domain():
    schema = Schema((Feature("chars", "number"),))
    domains = domains_of(schema, "domain")
    x = schema.encode_all([{"chars": 2.0}, {}])
    assert domains == Domains()
    assert domains.of(x).tolist() == [0, 0]
    assert (domains.weights(np.array([[0.3]]), 2) @ x.T).tolist() == [[0.3, 0.3]]


@pytest.mark.parametrize(("name", "said"), [("chars", "is a number"), ("topic", "no feature")])
def test_a_domain_that_is_no_category_is_refused(name, said):
    with pytest.raises(SpecError, match=said):
        domains_of(SCHEMA, name)
