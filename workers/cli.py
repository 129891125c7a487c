"""``python -m workers.cli worker|beat``: what `pointsman worker` and `pointsman beat` run."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane import logs
from controlplane.settings import Settings
from workers.app import make_app


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker or the schedule until it is told to end."""
    parser = argparse.ArgumentParser(prog="pointsman", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="join, learn, judge and publish")
    worker.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    commands.add_parser("beat", help="tick each second; exactly one is enough")
    given = parser.parse_args(argv)
    settings = Settings()
    if settings.redis_url is None or settings.database_url is None:
        parser.error(
            "set POINTSMAN_DATABASE_URL and POINTSMAN_REDIS_URL, or run `pointsman up`, which "
            "brings its own"
        )
    logs.configure(settings.log_level)
    app = make_app(settings.redis_url.get_secret_value())
    quiet = ["--loglevel", "warning"]
    if given.command == "worker":
        app.worker_main(
            ["worker", *quiet, "--concurrency", str(given.processes), "--without-gossip",
             "--without-mingle", "--without-heartbeat"]
        )  # fmt: skip
    else:
        schedule = _schedule_file(settings.data)
        app.start(["beat", *quiet, "--schedule", str(schedule), "--pidfile", ""])
    return 0


def _schedule_file(data: Path) -> Path:
    data.mkdir(parents=True, exist_ok=True)
    return data / "beat.schedule"


if __name__ == "__main__":
    sys.exit(main())
