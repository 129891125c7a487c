from pathlib import Path

import numpy as np

from bench.curves import Curve
from bench.plots import draw

PANELS = tuple(f"table {i}" for i in range(2))
LARGEST_BYTES = 60_000
NAMES = ("auto", "a rival", "all outcomes")


def curves() -> list[Curve]:
    random = np.random.default_rng(0)
    found = []
    for panel in PANELS:
        for name in NAMES:
            known = name == "all outcomes"
            y, cost = random.random(50).tolist(), np.sort(random.random(9)).tolist()
            found += [
                Curve("gain", panel, name, (0.0,), (y[0],), (0.01,), reference=known),
                Curve("frontier", panel, name, tuple(cost), tuple(y[:9]), reference=known),
                Curve(
                    "recovery",
                    panel,
                    name,
                    tuple(map(float, range(50))),
                    tuple(y),
                    (0.02,) * 50,
                    (40.0,),
                    reference=known,
                ),
            ]
        found.append(Curve("frontier", panel, "an arm", (0.3,), (0.4,), reference=True))
    return found


def test_the_same_curves_give_the_same_small_pictures(tmp_path: Path):
    first, again = draw(curves(), tmp_path / "first"), draw(curves(), tmp_path / "again")
    assert [path.name for path in first.values()] == ["gain.png", "frontier.png", "recovery.png"]
    for path, other in zip(first.values(), again.values(), strict=True):
        data = path.read_bytes()
        assert data == other.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert b"tIME" not in data
        assert len(data) < LARGEST_BYTES


def test_another_value_gives_another_picture(tmp_path: Path):
    line = Curve("recovery", "swap", "auto", (0.0, 1.0), (0.0, 1.0))
    moved = Curve("recovery", "swap", "auto", (0.0, 1.0), (1.0, 0.0))
    ((_, one),) = draw([line], tmp_path / "one").items()
    ((_, other),) = draw([moved], tmp_path / "other").items()
    assert one.read_bytes() != other.read_bytes()


def test_nothing_is_drawn_of_nothing(tmp_path: Path):
    assert draw([], tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
