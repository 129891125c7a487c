"""The Celery application: what it takes from the broker may be lost at any time without harm."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, signals

from storage.embedded_launch import die_with_parent
from storage.work import LEASE_S

TICK_S = 1.0
TIDY_S = 600.0
QUEUE = "pointsman"
ROUNDS_QUEUE = "pointsman-rounds"
"""Rounds take minutes: on processes of their own, they keep nothing else waiting."""

QUIET = ("--loglevel", "warning")


def make_app(redis_url: str) -> Celery:
    """The application over the Redis at ``redis_url`` (``redis://…`` or ``redis+socket://…``)."""
    app = Celery("pointsman", broker=redis_url, include=["workers.tasks"])
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_soft_time_limit=LEASE_S - 10,
        task_time_limit=LEASE_S,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=500,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": LEASE_S * 2},
        beat_schedule={
            "tick": {
                "task": "workers.tasks.tick",
                "schedule": TICK_S,
                # A tick that comes late finds nothing that the next one would not.
                "options": {"expires": 2 * TICK_S},
            },
            "tidy": {
                "task": "workers.tasks.tidy",
                "schedule": TIDY_S,
                "options": {"expires": TIDY_S},
            },
        },
    )
    app.set_default()
    return app


def run_node(app: Celery, queue: str, processes: int, say_ready: Callable[[], None]) -> None:
    """Work on one queue until told to end; a process of the pool never outlives this one."""
    parent = os.getpid()

    def ready(**_: Any) -> None:
        say_ready()

    def begin(**_: Any) -> None:
        die_with_parent(parent, signal.SIGKILL)

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_process_init.connect(begin, weak=False)
    app.worker_main(
        ["worker", *QUIET, "--queues", queue, "--hostname", f"{queue}@%h", "--concurrency",
         str(processes), "--without-gossip", "--without-mingle", "--without-heartbeat"]
    )  # fmt: skip


def run_beat(app: Celery, schedule: Path, say_ready: Callable[[], None]) -> None:
    """Run the schedule until told to end."""

    def ready(**_: Any) -> None:
        say_ready()

    signals.beat_init.connect(ready, weak=False)
    app.start(["beat", *QUIET, "--schedule", str(schedule), "--pidfile", ""])
