"""The Celery application: what it takes from the broker may be lost at any time without harm."""

import json
import sys
from typing import Any

from celery import Celery, signals

from storage.work import LEASE_S

TICK_S = 1.0
TIDY_S = 600.0
QUEUE = "pointsman"


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


@signals.worker_ready.connect
def _worker_ready(**_: Any) -> None:
    _say_ready("worker")


@signals.beat_init.connect
def _beat_ready(**_: Any) -> None:
    _say_ready("beat")


def _say_ready(name: str) -> None:
    sys.stdout.write(json.dumps({"ready": True, "process": name}) + "\n")
    sys.stdout.flush()
