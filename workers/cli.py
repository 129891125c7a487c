"""``python -m workers.cli worker|beat``: what `pointsman worker` and `pointsman beat` run."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from controlplane import logs, signing
from controlplane.errors import ControlPlaneError, SettingsError
from controlplane.settings import Settings, read_settings
from storage.engine import connect
from workers.app import QUEUE, ROUNDS_QUEUE, make_app, run_beat, run_node
from workers.nodes import Node, run

MAX_PROCESSES = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker or the schedule until it is told to end."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        settings = read_settings()
    except SettingsError as error:
        parser.error(str(error))
    if settings.redis_url is None or settings.database_url is None:
        parser.error(
            "set POINTSMAN_DATABASE_URL and POINTSMAN_REDIS_URL, or run `pointsman up`, which "
            "brings its own"
        )
    logs.configure(settings.log_level)
    redis = settings.redis_url.get_secret_value()
    if given.command == "worker":
        return _work(settings, given)
    if given.command == "node":
        run_node(make_app(redis), given.queue, given.processes, lambda: _tell(given.ready_fd))
    else:
        run_beat(make_app(redis), _schedule_file(settings.data), lambda: _say_ready("beat"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{worker,beat}")
    worker = commands.add_parser("worker", help="join, learn, judge and publish")
    worker.add_argument(
        "--processes", type=_count, default=2, help="for ticks, joins and renewals; default: 2"
    )
    worker.add_argument(
        "--rounds",
        type=_count,
        default=min(2, max(1, (os.cpu_count() or 1) // 2)),
        help="for rounds of training, each on one core; default: %(default)s",
    )
    commands.add_parser("beat", help="tick each second; exactly one is enough")
    node = commands.add_parser("node")  # one of a worker's
    node.add_argument("queue")
    node.add_argument("--processes", type=_count, required=True)
    node.add_argument("--ready-fd", type=int, required=True)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to {MAX_PROCESSES}")
    return int(text)


def _work(settings: Settings, given: argparse.Namespace) -> int:
    try:
        _agree(settings)
    except ControlPlaneError as error:
        sys.stderr.write(f"pointsman worker: {error}\n")
        return 1
    nodes = (Node(QUEUE, given.processes), Node(ROUNDS_QUEUE, given.rounds))
    return run(nodes, lambda: _say_ready("worker"))


def _agree(settings: Settings) -> None:
    """Refuse to start with keys that edges do not trust."""
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    engine = connect(url, pool_size=1, application="pointsman worker")
    try:
        signing.agree(settings, engine, datetime.now(UTC))
    finally:
        engine.dispose()


def _tell(ready_fd: int) -> None:
    os.write(ready_fd, b"1")
    os.close(ready_fd)


def _say_ready(name: str) -> None:
    sys.stdout.write(json.dumps({"ready": True, "process": name}) + "\n")
    sys.stdout.flush()


def _schedule_file(data: Path) -> Path:
    data.mkdir(parents=True, exist_ok=True)
    return data / "beat.schedule"


if __name__ == "__main__":
    sys.exit(main())
