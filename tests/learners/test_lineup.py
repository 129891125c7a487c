"""Who else a bundle brings: shares, layers, and what is refused."""

import json
from collections import Counter

import pytest

from learners.errors import BundleError
from learners.lineup import Dispatch, Lineup, Split, Variant, free_part, units_of

HALVES = (Variant("canary", 0.25, 7), Variant("control", 0.75))


def split(**changes: object) -> Split:
    given = {"name": "canary", "salt": "s", "unit": "session", "variants": HALVES, **changes}
    return Split(**given)  # type: ignore[arg-type]


def users(count: int) -> list[dict[str, str]]:
    return [units_of(f"decision-{n}", user=f"user-{n}") for n in range(count)]


def test_a_unit_keeps_its_variant_and_shares_are_kept():
    one = split(unit="user")
    found = [one.assign(units) for units in users(20_000)]
    again = [split(unit="user").assign(units) for units in users(20_000)]
    assert found == again
    share = sum(a is not None and a.variant == "canary" for a in found) / len(found)
    assert share == pytest.approx(0.25, abs=0.0125)  # four standard errors


def test_a_share_that_grows_keeps_its_units():
    small, large = (
        split(unit="user"),
        split(unit="user", variants=(Variant("canary", 0.5, 7), Variant("control", 0.5))),
    )
    for units in users(2_000):
        before, after = small.assign(units), large.assign(units)
        assert before is not None
        assert after is not None
        assert before.variant != "canary" or after.variant == "canary"


def test_parts_of_a_layer_are_disjoint_and_other_layers_independent():
    low = split(unit="user", layer="prices", start=0.0, end=0.5)
    high = split(unit="user", layer="prices", start=0.5, end=1.0, salt="other")
    elsewhere = split(unit="user", layer="tone", start=0.0, end=0.5)
    both = 0
    for units in users(4_000):
        assert (low.assign(units) is None) != (high.assign(units) is None)
        both += low.assign(units) is not None and elsewhere.assign(units) is not None
    assert both / 4_000 == pytest.approx(0.25, abs=0.03)


def test_a_free_part_is_the_first_gap_that_is_large_enough_and_moves_nobody():
    assert free_part([], 1.0) == (0.0, 1.0)
    assert free_part([(0.0, 0.3)], 0.5) == (0.3, 0.8)
    assert free_part([(0.5, 0.7), (0.0, 0.2)], 0.3) == (0.2, 0.5)
    assert free_part([(0.5, 0.7), (0.0, 0.2)], 0.31) is None
    assert free_part([(0.0, 0.5)], 0.5) == (0.5, 1.0)
    assert free_part([(0.0, 1.0)], 0.001) is None


def test_a_holdout_is_in_no_free_part():
    assert free_part([], 0.9, upto=0.9) == (0.0, 0.9)
    assert free_part([], 0.91, upto=0.9) is None
    assert free_part([(0.0, 0.6)], 0.31, upto=0.9) is None


def test_parts_that_fill_a_layer_one_by_one_leave_no_unit_over_and_share_none():
    taken: list[tuple[float, float]] = []
    for _ in range(7):
        found = free_part(taken, 1 / 7)
        assert found is not None
        taken.append(found)
    assert free_part(taken, 0.001) is None
    splits = [
        split(name=f"e{n}", unit="user", layer="all", salt=f"s{n}", start=start, end=end)
        for n, (start, end) in enumerate(taken)
    ]
    held = Counter(sum(one.assign(units) is not None for one in splits) for units in users(7_000))
    assert held == {1: 7_000}


def test_a_place_never_changes():
    # Published numbers: an edge of another version must agree.
    halves = split(variants=(Variant("a", 0.5), Variant("b", 0.5)))
    found = [halves.assign({"session": unit}) for unit in ("user-1", "", "é", "user-2")]
    assert [(one.variant, one.unit) for one in found if one is not None] == PLACES


PLACES = [
    ("a", "825f8d71a4439a2b"),
    ("b", "aa09ea72f71bc5b0"),
    ("a", "e1e1929ccf5d8121"),
    ("a", "1be72cc02f526069"),
]


def test_a_request_without_a_session_is_one_of_its_own_and_without_a_user_belongs_to_none():
    assert split().assign(units_of("d-1")) is not None
    assert split(unit="user").assign(units_of("d-1")) is None


def test_the_hash_of_a_unit_tells_nobody_who_it_is():
    found = split(unit="user").assign(units_of("d", user="ann@example.org"))
    assert found is not None
    assert "ann" not in found.unit
    assert found.unit != getattr(
        split(unit="user", salt="t").assign(units_of("d", user="ann@example.org")), "unit", ""
    )


def test_a_split_comes_back_as_it_was_written():
    one = split(layer="prices", start=0.25, end=0.75)
    assert Split.from_json(json.loads(json.dumps(one.as_json()))) == one


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unit": "house"}, "unit 'house'"),
        ({"variants": (Variant("a", 0.5), Variant("b", 0.6))}, "do not sum to 1"),
        ({"variants": (Variant("a", 0.5), Variant("a", 0.5))}, "comes twice"),
        ({"variants": ()}, "0 variants"),
        ({"start": 0.5, "end": 0.5}, "a part of"),
    ],
)
def test_what_is_no_split_is_refused(changes: dict[str, object], told: str):
    with pytest.raises(BundleError, match=told):
        split(**changes)


def test_a_version_that_is_named_must_be_brought():
    with pytest.raises(BundleError, match=r"\['7'\] are named"):
        Lineup(splits=(split(),))
    with pytest.raises(BundleError, match=r"\['9'\] are named"):
        Lineup(shadows=(9,))


@pytest.mark.parametrize(
    "changes", [{"share": 1.1}, {"usd_per_hour": float("nan")}, {"max_in_flight": 0}]
)
def test_a_dispatch_out_of_range_is_refused(changes: dict[str, float]):
    with pytest.raises(BundleError, match=rf"dispatch\.{next(iter(changes))} is .*: out of range"):
        Dispatch(**changes)  # type: ignore[arg-type]


def test_a_dispatch_comes_back_as_it_was_written_and_needs_a_shadow():
    one = Dispatch(0.25, 1.5, 2)
    assert Dispatch.from_json(json.loads(json.dumps(one.as_json()))) == one
    with pytest.raises(BundleError, match="there is no shadow"):
        Lineup(dispatch=one)
