"""Several Celery nodes as one program: rounds of minutes never keep ticks and joins waiting."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from storage.embedded_process import dying_with_this

LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Node:
    """A queue, and how many processes work on it."""

    queue: str
    processes: int


def run(nodes: Sequence[Node], say_ready: Callable[[], None]) -> int:
    """Run all nodes until this program is asked to end, or one of them ends by itself.

    SIGTERM and SIGINT let them finish what they are at; a second one does not. Where this program
    is killed, the kernel kills them; what they were at is found again by the next tick.

    Args:
        nodes: what to run.
        say_ready: called once all nodes take work.

    Returns:
        0 when asked to end, 1 when a node ended by itself; the others are killed then.
    """
    asked = _Asked()
    starting: set[int] = set()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for node in nodes:
            popen, ready = _start(node)
            running.append(popen)
            starting.add(ready)
        while not asked.times and all(one.poll() is None for one in running):
            if not starting:
                time.sleep(LOOK_S)
                continue
            starting -= _become_ready(starting)
            if not starting:
                say_ready()
        code = 0 if asked.times else 1
        if code == 0:
            _end(running, asked)
    finally:
        for one in running:
            one.kill()
            one.wait()
    return code


def _start(node: Node) -> tuple[subprocess.Popen[bytes], int]:
    """The node, and what can be read from once it takes work.

    It has a session of its own: Ctrl-C in the terminal is for this program, which passes it on.
    """
    ready, told = os.pipe()
    command = ("node", node.queue, "--processes", str(node.processes), "--ready-fd", str(told))
    try:
        popen = subprocess.Popen(
            (*dying_with_this(signal.SIGKILL), sys.executable, "-m", "workers.cli", *command),
            stdin=subprocess.DEVNULL,
            pass_fds=(told,),
            start_new_session=True,
        )
    finally:
        os.close(told)
    return popen, ready


def _become_ready(starting: set[int]) -> set[int]:
    """Those that take work now; waits a moment for one."""
    readable, _, _ = select.select(starting, (), (), LOOK_S)
    found = {ready for ready in readable if os.read(ready, 1)}
    for ready in found:
        os.close(ready)
    return found


def _end(running: Sequence[subprocess.Popen[bytes]], asked: "_Asked") -> None:
    """Let the nodes finish, unless somebody asks again."""
    for one in running:
        one.terminate()
    while asked.times == 1 and any(one.poll() is None for one in running):
        time.sleep(LOOK_S)


class _Asked:
    """How often this program was asked to end."""

    def __init__(self) -> None:
        self.times = 0
        for sent in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sent, self._count)

    def _count(self, _signal: int, _frame: FrameType | None) -> None:
        self.times += 1
