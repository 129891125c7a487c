import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.errors import ContextError, SpecError
from learners.features import Feature, Schema, canonical_json
from learners.records import Context

numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
names = st.text(min_size=1, max_size=8)


@st.composite
def features(draw, name):
    kind = draw(st.sampled_from(["number", "flag", "category", "vector"]))
    if kind == "category":
        values = draw(st.lists(names, unique=True, max_size=4))
        return Feature(name, kind, values=tuple(values))
    if kind == "vector":
        return Feature(name, kind, size=draw(st.integers(1, 5)))
    if kind == "number":
        return Feature(name, kind, mean=draw(st.floats(-1e6, 1e6)), scale=draw(positive))
    return Feature(name, kind)


@st.composite
def schemas(draw):
    chosen = draw(st.lists(names, unique=True, max_size=5))
    return Schema(tuple(draw(features(name)) for name in chosen))


@st.composite
def contexts(draw, schema):
    found = {}
    for feature in schema.features:
        if draw(st.booleans()):
            continue
        if feature.kind == "category":
            found[feature.name] = draw(names)
        elif feature.kind == "flag":
            found[feature.name] = draw(st.booleans())
        elif feature.kind == "number":
            found[feature.name] = draw(numbers)
        else:
            size = feature.size
            found[feature.name] = draw(st.lists(numbers, min_size=size, max_size=size))
    return found


@given(st.data())
def test_any_context_becomes_a_bounded_vector_of_the_schema_s_width(data):
    schema = data.draw(schemas())
    context = data.draw(contexts(schema))
    x = schema.encode(context)
    assert x.shape == (schema.dimension,)
    assert x[0] == 1.0
    assert (np.abs(x) <= 10).all()
    assert np.array_equal(schema.encode_all([context, {}])[0], x)


@given(st.data())
def test_many_contexts_are_encoded_to_the_bytes_of_each_by_itself(data):
    schema = data.draw(schemas())
    many = data.draw(st.lists(contexts(schema), max_size=6))
    each = b"".join(schema.encode(context).tobytes() for context in many)
    assert schema.encode_all(many).tobytes() == each


@pytest.mark.parametrize("odd", [True, 3, np.float64(0.5), (1, 2), "a", [1], [[1, 2]], 10**400])
@pytest.mark.parametrize("kind", ["number", "flag", "category", "vector"])
def test_an_odd_value_among_many_is_taken_or_refused_as_by_itself(kind, odd):
    schema = Schema((Feature("f", kind, values=("a", "3") if kind == "category" else (), size=2),))
    plain = {"number": 1.5, "flag": True, "category": "a", "vector": [0.5, 1]}[kind]
    many = [{"f": plain}, {}, {"f": odd}]
    try:
        each = [schema.encode(context) for context in many]
    except ContextError as error:
        with pytest.raises(ContextError, match=re.escape(str(error))):
            schema.encode_all(many)
    else:
        assert schema.encode_all(many).tobytes() == np.array(each).tobytes()


@given(schemas())
def test_a_schema_survives_json_with_its_digest(schema):
    again = Schema.from_json(json.loads(canonical_json(schema.as_json())))
    assert again == schema
    assert again.digest == schema.digest


def test_each_kind_is_encoded_as_it_says():
    schema = Schema(
        (
            Feature("chars", "number", mean=2.0, scale=4.0),
            Feature("code", "flag"),
            Feature("domain", "category", values=("law", "maths")),
            Feature("terms", "vector", size=2),
        )
    )
    context: Context = {"chars": 4.0, "code": True, "domain": "maths", "terms": [0.5, -50.0]}
    assert schema.encode(context).tolist() == [1, 0.5, 1, 0, 1, 0.5, -10]
    assert schema.encode({"domain": "poetry"}).tolist() == [1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "7", [1.0], 10**400], ids=["nan", "inf", "text", "list", "huge"]
)
def test_a_number_that_is_none_is_refused_by_name(value):
    schema = Schema((Feature("chars", "number"),))
    with pytest.raises(ContextError, match=r"context\.chars"):
        schema.encode({"chars": value})


@pytest.mark.parametrize("value", [[1.0], [1.0, math.nan], "ab", 3.0, [1.0, 10**400], [[1.0], [2]]])
def test_a_vector_that_does_not_fit_is_refused_by_name(value):
    schema = Schema((Feature("terms", "vector", size=2),))
    with pytest.raises(ContextError, match=r"context\.terms"):
        schema.encode({"terms": value})


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "number"},
        {"name": "a", "kind": "colour"},
        {"name": "a", "kind": "number", "scale": 0},
        {"name": "a", "kind": "number", "scale": "wide"},
        {"name": "a", "kind": "vector", "size": 0},
        {"name": "a", "kind": "vector", "size": 1e400},
        {"name": "a", "kind": "category", "values": ["x", "x"]},
        {"name": "a", "kind": "category", "values": None},
    ],
)
def test_a_feature_that_can_not_be_encoded_is_refused(row):
    with pytest.raises(SpecError, match="feature"):
        Schema.from_json([row])


def test_repeated_names_and_too_many_columns_are_refused():
    with pytest.raises(SpecError, match="repeat"):
        Schema((Feature("a", "flag"), Feature("a", "flag")))
    with pytest.raises(SpecError, match="4097 columns"):
        Schema((Feature("a", "vector", size=4096),))
