import math

import pytest

from bench import curves
from bench.curves import Curve
from bench.measure import Measure, Report, main

LINE = Curve("recovery", "swap", "auto", (0.0, 64.0), (0.5, 0.6), (0.01, 0.02), (64.0,))
POINT = Curve("gain", "a table", "ridge", (0.0,), (0.1,), reference=True)


def test_curves_are_read_as_they_were_written(tmp_path):
    curves.write([LINE, POINT], tmp_path / "curves.json")
    assert curves.read(tmp_path / "curves.json") == [LINE, POINT]


def test_a_recovery_is_the_mean_over_seeds():
    found = curves.recovery("swap", "auto", [[0.2, 0.6], [0.4, 0.6]], 64.0)
    assert (found.figure, found.panel, found.x) == ("recovery", "swap", (0.0, 64.0))
    assert found.y == pytest.approx((0.3, 0.6))
    assert found.error == pytest.approx((0.1, 0.0))
    assert curves.recovery("swap", "auto", [[0.2, 0.6]], 64.0).error == ()


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("no such figure", {"figure": "pie"}),
        ("as many", {"y": (0.1,)}),
        ("as many", {"x": (), "y": (), "error": ()}),
        ("errors", {"error": (0.1,)}),
        ("finite", {"y": (0.1, math.nan)}),
    ],
)
def test_what_cannot_be_drawn_is_refused(what, given):
    plain = {"figure": "recovery", "panel": "p", "name": "n", "x": (0.0, 1.0), "y": (0.0, 1.0)}
    with pytest.raises(ValueError, match=what):
        Curve(**{**plain, **given})


def test_a_benchmark_keeps_its_curves_beside_its_measures(tmp_path, capsys):
    found = Report((Measure("a count", 3, "calls"),), (LINE,))
    assert main(lambda _: found, ["--curves", str(tmp_path / "curves.json")]) == 0
    assert "a count: 3 calls" in capsys.readouterr().out
    assert curves.read(tmp_path / "curves.json") == [LINE]
