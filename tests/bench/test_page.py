from dataclasses import asdict
from pathlib import Path

from bench.measure import Measure
from bench.page import END, PAGE, START, part, render, write

EARNED = [
    Measure(f"test reward on {table}: {name} (s.e. 0.0100)", 0.5, "reward")
    for table in ("here", "there")
    for name in ("auto", "linucb")
]
GOALS = [
    Measure("auto over the best, on here", 0.1, "reward", goal=">= 0", holds=True),
    Measure("auto over the best, on there", -0.1, "reward", goal=">= 0", holds=False),
]
COUNT = Measure("decisions joined", 22_550.0, "rows/s", "bare INSERT: 325,200 rows/s", 0.07)


def lines_of(*measures):
    return part([asdict(one) for one in measures])


def test_goals_come_first_then_tables_then_the_rest():
    lines = lines_of(*EARNED, *GOALS, COUNT)
    text = "\n".join(lines)
    assert lines[0] == "Goals: 1 of 2 hold."
    assert "| auto over the best, on there | -0.1 reward |  |  | >= 0 | **missed** |" in lines
    assert text.index("missed") < text.index("**test reward (reward)**") < text.index("22,550")
    assert text.count("decisions joined") == text.count("auto over the best, on here") == 1


def test_a_benchmark_without_such_tables_stays_one_list():
    lines = lines_of(COUNT, *GOALS)
    assert lines[0].startswith("| measure | value |")
    assert lines[2] == (
        "| decisions joined | 22,550 rows/s | bare INSERT: 325,200 rows/s | 0.07 |  |  |"
    )
    assert len(lines) == 2 + 3 + 1


def test_only_what_was_measured_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write("new", page)
    write("newer", page)
    assert page.read_text() == f"before\n{START}\n\nnewer\n{END}\nafter\n"


def test_pictures_are_linked_from_the_page():
    text = render({"loop": [asdict(COUNT)]}, {"Gains": PAGE.parent / "plots" / "gain.png"})
    assert "### `python -m bench.loop`" in text
    assert "![Gains](plots/gain.png)" in text
    assert "png" not in render({"loop": [asdict(COUNT)]})
