import subprocess
import sys
from collections import Counter
from dataclasses import replace
from time import process_time

import pytest

from learners.assignment import (
    BUCKETS,
    Assignment,
    Experiment,
    Layer,
    Variant,
    assign_all,
    place,
)
from learners.errors import SpecError

HALVES = (Variant("control", 0.5, "champion"), Variant("new", 0.5, "v7"))
UNITS = [f"user-{i}" for i in range(20_000)]


def experiment(name: str = "e", **fields) -> Experiment:
    return Experiment(name, fields.pop("salt", f"salt of {name}"), HALVES, **fields)


def test_a_unit_has_the_same_variant_in_another_process():
    layer = Layer("layer", (experiment(first=0, buckets=7_000),), holdout=0.1)
    code = (
        "import json, sys; from learners.assignment import Layer;"
        "assert 'numpy' not in sys.modules;"
        f"layer = Layer.from_json({layer.as_json()!r});"
        "print(json.dumps([layer.assign(f'user-{i}') for i in range(200)]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    here = [layer.assign(unit) for unit in UNITS[:200]]
    assert other.count("null") == here.count(None) > 0
    assert other.count('"new"') == sum(each is not None and each.variant == "new" for each in here)


def test_a_place_never_changes():
    # Published numbers: an edge of another version must agree.
    assert [f"{place('salt', unit):.6f}" for unit in ("user-1", "", "é", "\ud800")] == PLACES


PLACES = ["0.149522", "0.535956", "0.151059", "0.165797"]


def test_places_are_even_and_those_of_two_salts_are_independent():
    count = Counter((int(place("a", unit) * 10), int(place("b", unit) * 10)) for unit in UNITS)
    expected = len(UNITS) / 100
    chi_square = sum((count[i, j] - expected) ** 2 / expected for i in range(10) for j in range(10))
    assert chi_square < 160  # 99 degrees of freedom: 1 in 10,000


def test_variants_get_their_shares():
    split = Experiment(
        "e", "s", (Variant("a", 0.2, "1"), Variant("b", 0.3, "2"), Variant("c", 0.5, "3"))
    )
    count = Counter(split.assign(unit).variant for unit in UNITS)
    for name, share in (("a", 0.2), ("b", 0.3), ("c", 0.5)):
        assert count[name] == pytest.approx(share * len(UNITS), abs=4.0 * 71)


def test_the_experiments_of_a_layer_share_no_unit_and_the_variants_do_not_depend_on_the_bucket():
    layer = Layer(
        "l", (experiment("x", first=0, buckets=4_000), experiment("y", first=4_000, buckets=3_000))
    )
    found = [layer.assign(unit) for unit in UNITS]
    count = Counter(None if each is None else (each.experiment, each.variant) for each in found)
    assert count[None] == pytest.approx(0.3 * len(UNITS), abs=260)
    for name, share in (("x", 0.2), ("y", 0.15)):
        for variant in ("control", "new"):
            assert count[name, variant] == pytest.approx(share * len(UNITS), abs=240)


def test_an_experiment_that_is_added_moves_nobody():
    one = experiment("x", first=0, buckets=4_000)
    before = Layer("l", (one,))
    after = Layer("l", (experiment("y", first=before.free(2_000), buckets=2_000), one))
    moved = [unit for unit in UNITS if before.assign(unit) not in (None, after.assign(unit))]
    assert moved == []
    assert any(before.assign(unit) is None and after.assign(unit) is not None for unit in UNITS)
    with pytest.raises(SpecError, match="no 5000 free buckets"):
        after.free(5_000)


def test_a_variant_that_grows_keeps_its_units():
    served: set[str] = set()
    for share in (0.01, 0.05, 0.25, 0.5):
        split = Experiment("e", "s", (Variant("a", 1 - share, "1"), Variant("b", share, "2")))
        now = {unit for unit in UNITS if split.assign(unit).variant == "b"}
        assert served < now
        served = now


def test_layers_are_independent_and_a_common_holdout_is_out_of_all():
    layers = [Layer(name, (experiment(name + "x"),), holdout=0.1) for name in ("one", "two")]
    count = Counter(tuple(each.variant for each in assign_all(layers, unit)) for unit in UNITS)
    assert count[()] == pytest.approx(0.1 * len(UNITS), abs=170)
    for pair in (("control", "control"), ("control", "new"), ("new", "control"), ("new", "new")):
        assert count[pair] == pytest.approx(0.225 * len(UNITS), abs=240)
    assert sum(count.values()) == sum(count[each] for each in count if len(each) in (0, 2))


def test_in_an_a_a_experiment_all_variants_serve_the_control():
    same = experiment(same=True)
    assert {same.assign(unit) for unit in UNITS[:100]} == {
        Assignment("e", "control", "champion"),
        Assignment("e", "new", "champion"),
    }


def test_json_gives_the_same_layer_back():
    layer = Layer("l", (experiment(first=5, buckets=7, same=True),), 0.25, "h")
    assert Layer.from_json(layer.as_json()) == layer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": HALVES[:1]}, "give 2 to"),
        ({"variants": (HALVES[0], HALVES[0])}, "own names"),
        ({"variants": (HALVES[0], Variant("b", 0.4, "x"))}, "sum to 0.9"),
        ({"first": BUCKETS}, "leave"),
        ({"buckets": 0}, "leave"),
    ],
)
def test_an_experiment_that_splits_nobody_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        replace(experiment(), **change)


def test_a_layer_whose_experiments_meet_is_refused():
    one = experiment("x", first=0, buckets=10)
    with pytest.raises(SpecError, match="x and y share bucket 9"):
        Layer("l", (experiment("y", first=9, buckets=1), one))
    with pytest.raises(SpecError, match="one name"):
        Layer("l", (one, replace(one, first=10)))
    with pytest.raises(SpecError, match="used twice"):
        Layer("l", (replace(one, salt="l"),))
    with pytest.raises(SpecError, match="holdout 1"):
        Layer("l", holdout=1.0)
    with pytest.raises(SpecError, match="share 0"):
        Variant("a", 0.0, "x")


@pytest.mark.soak
def test_a_call_takes_less_than_5_microseconds():
    layer = Layer("l", (experiment(buckets=5_000),), holdout=0.05)
    took = []
    for _ in range(7):
        started = process_time()
        for unit in UNITS:
            layer.assign(unit)
        took.append((process_time() - started) / len(UNITS))
    assert min(took) < 5e-6
