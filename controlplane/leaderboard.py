"""``pointsman leaderboard``: rank arms by votes on pairs of their answers, with intervals."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from controlplane.threads import one_thread
from learners.bradley_terry import LEAST_VOTES, ROUNDS, Row, leaderboard
from learners.errors import PreferenceError
from learners.records import MAX_NAME
from learners.votes import Votes

MAX_VOTES = 1_000_000
MAX_ARMS = 200
"""The bootstrap solves as many equations for each resample."""
MAX_ROUNDS = 10_000
COLUMNS = ("winner", "loser", "tie", "prompt", "weight")
"""The last three may be left out."""

_TRUTH = {"": False, "0": False, "false": False, "1": True, "true": True}


class VotesError(ValueError):
    """A file of votes can not be used; the message names row and column."""


def main(argv: Sequence[str]) -> int:
    """Run ``pointsman leaderboard``; 0 when done, 2 when it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="pointsman leaderboard", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    try:
        if not 2 <= options.rounds <= MAX_ROUNDS:
            raise VotesError(f"rounds is {options.rounds}: give 2 to {MAX_ROUNDS}")
        votes = read_votes(options.votes)
        with one_thread():
            rows = leaderboard(
                votes,
                seed=options.seed,
                rounds=options.rounds,
                level=options.level,
                least_votes=options.least_votes,
            )
    except (VotesError, PreferenceError, OSError, UnicodeDecodeError, csv.Error) as error:
        sys.stderr.write(f"pointsman leaderboard: {options.votes}: {error}\n")
        return 2
    found = {"votes": len(votes.winner), "level": options.level, "arms": [asdict(r) for r in rows]}
    text = json.dumps(found, allow_nan=False) if options.json else render(rows, options.level)
    sys.stdout.write(text + "\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``pointsman leaderboard``."""
    option = parser.add_argument
    option("--votes", type=Path, required=True, metavar="F", help=f"CSV of {', '.join(COLUMNS)}")
    option("--level", type=float, default=0.95, help="of the intervals; default: 0.95")
    option("--least-votes", type=float, default=LEAST_VOTES, metavar="N", help=_LEAST_HELP)
    option("--rounds", type=int, default=ROUNDS, metavar="N", help="resamples; default: 400")
    option("--seed", type=int, default=0, help="of the resampling; default: 0")
    option("--json", action="store_true", help="print one JSON object instead of a table")


_LEAST_HELP = f"votes without which an arm has no rank; default: {LEAST_VOTES}"


def read_votes(path: Path) -> Votes:
    """The votes of a file.

    Raises:
        VotesError: It lacks a column, holds no or too many votes, or a value that is none.
        OSError: It cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(_checked(csv.DictReader(stream, strict=True)))
    if not rows:
        raise VotesError("no votes: give a row for each")
    arms = {name for winner, loser, *_ in rows for name in (winner, loser)}
    if len(arms) > MAX_ARMS:
        raise VotesError(f"{len(arms)} arms: at most {MAX_ARMS} are ranked")
    winner, loser, tied, prompt, weight = zip(*rows, strict=True)
    known = [text for text in prompt if text is not None]
    return Votes.named(winner, loser, tied=tied, weight=weight, prompt=known or None)


_Vote = tuple[str, str, bool, str | None, float]


def _checked(reader: "csv.DictReader[str]") -> Iterator[_Vote]:
    header = list(reader.fieldnames or ())
    for name in COLUMNS:
        if header.count(name) > 1:
            raise VotesError(f"row 1: column {name}: is there twice: keep one")
        if name in COLUMNS[:2] and name not in header:
            raise VotesError(f"row 1: column {name}: is missing; the header has {header[:20]}")
    for number, row in enumerate(reader):
        if number >= MAX_VOTES:
            raise VotesError(f"more than {MAX_VOTES:,} votes: give fewer, with a weight each")
        yield _vote(row, reader.line_num)


def _vote(row: Mapping[str | None, str | None], line: int) -> _Vote:
    def told(column: str) -> str:
        return (row.get(column) or "").strip()

    winner, loser, tie, prompt = (told(column) for column in COLUMNS[:4])
    weight = _number(told("weight") or "1")
    checks = {
        "winner": (1 <= len(winner) <= MAX_NAME, f"give a name of 1 to {MAX_NAME} characters"),
        "loser": (1 <= len(loser) <= MAX_NAME, f"give a name of 1 to {MAX_NAME} characters"),
        "tie": (tie.lower() in _TRUTH, "give 1 or 0"),
        "prompt": (bool(prompt) or "prompt" not in row, "name each, or leave the column out"),
        "weight": (0 <= weight < math.inf, "give a finite number of at least 0"),
    }
    for column, (good, remedy) in checks.items():
        if not good:
            raise VotesError(f"row {line}: column {column}: {row.get(column)!r:.100}: {remedy}")
    if None in row:
        raise VotesError(f"row {line}: has more fields than the header")
    if winner == loser:
        raise VotesError(f"row {line}: column loser: {loser!r} is the winner too: leave it out")
    return winner, loser, _TRUTH[tie.lower()], prompt or None, weight


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def render(rows: Sequence[Row], level: float) -> str:
    """The leaderboard in columns: win chances are against the average opponent."""
    cells = [("rank", "arm", "wins", f"{level:.0%} interval", "strength", "votes")]
    for row in rows:
        rank = "-" if row.rank is None else f"{row.rank}"
        span = f"{row.win_low:.3f} – {row.win_high:.3f}"
        numbers = (f"{row.win_probability:.3f}", span, f"{row.strength:+.3f}", f"{row.votes:g}")
        cells.append((rank, row.arm, *numbers))
    widths = [max(len(cell[i]) for cell in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(cell, widths, strict=True)) for cell in cells]
    if len({row.group for row in rows}) > 1:
        lines.append("Some arms were never compared, not even by way of others: mind their ranks.")
    return "\n".join(line.rstrip() for line in lines)
