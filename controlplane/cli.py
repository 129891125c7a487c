"""The ``pointsman`` command: each subcommand is a module's own ``main``, loaded when asked for."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "up": ("controlplane.up", "start everything on this machine, embedded where no URL is given"),
    "demo": ("controlplane.simulation.demo", "up, a simulated pool and traffic: watch it learn"),
    "replay": ("controlplane.replay", "the loop offline and fast, on a full-information table"),
    "lint": ("controlplane.lint_cli", "what is wrong or odd about a policy"),
    "plan": ("controlplane.plan_cli", "how long until a difference between versions is seen"),
    "import": ("controlplane.importing", "other systems' logs into a policy's log, or a table"),
    "leaderboard": ("controlplane.leaderboard", "rank arms by votes on pairs of answers"),
    "pool": ("controlplane.simulation.pool", "a simulated model pool that speaks OpenAI's API"),
    "api": ("controlplane.api.app", "the control plane's API and dashboard"),
    "models": ("controlplane.models_cli", "bring and check the files of the encoder"),
    "tools": ("controlplane.tools_cli", "choose tools by what came of using them"),
    "keys": ("controlplane.keys_cli", "create, list and revoke API keys"),
    "migrate": ("controlplane.migrate_cli", "bring the database to the newest schema"),
    "worker": ("workers.cli", "join, learn, judge and publish"),
    "beat": ("workers.cli", "the schedule: exactly one"),
}
_OTHERS = {"worker", "beat"}
"""Programs above this folder: they are executed, not imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in {"-h", "--help"}:
        print(usage())
        return 0 if given else 2
    if given[0] == "--version":
        print(_version())
        return 0
    command, rest = given[0], given[1:]
    if command not in COMMANDS:
        print(f"pointsman: no command {command!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module = COMMANDS[command][0]
    if command in _OTHERS:
        os.execv(sys.executable, [sys.executable, "-m", module, command, *rest])  # noqa: S606
    try:
        code: int = import_module(module).main(rest)
    except KeyboardInterrupt:
        return 130
    return code


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:11} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ("usage: pointsman <command> [options]   (<command> --help says more)", "", *lines)
    )


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 — slow, and rarely asked for

    return version("pointsman")


if __name__ == "__main__":
    sys.exit(main())
