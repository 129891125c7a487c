"""The programs that `pointsman up` runs: each in a session of its own, with its log, restarted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from controlplane.errors import ControlPlaneError
from storage.embedded_process import dying_with_this, log_tail, rotate, wait_for

START_S = 60.0
STOP_S = 20.0
MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
_MAX_OUT = 64 * 2**10
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessError(ControlPlaneError):
    """A program does not start, or ends again and again."""


@dataclass(frozen=True, slots=True)
class Program:
    """A Python module with its arguments; it prints a JSON line with ``ready`` once it serves.

    ``environment`` comes over this process's own; None takes a variable away.
    """

    name: str
    module: str
    args: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)


@contextmanager
def whole() -> Iterator[None]:
    """Ctrl-C and its like wait until the block is done, and then do what they do.

    A process that is started and not yet noted down would be forgotten by whoever stops them all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    came: list[int] = []

    def note(sent: int, _frame: FrameType | None) -> None:
        came.append(sent)

    before = {sent: signal.signal(sent, note) for sent in _ENDING}
    try:
        yield
    finally:
        for sent, handler in before.items():
            signal.signal(sent, handler)
        for number in came[:1]:
            signal.raise_signal(number)


class Process:
    """A running program. Its output goes to ``<logs>/<name>.out``, its log to ``….log``."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self._out = logs / f"{program.name}.out"
        self._log = logs / f"{program.name}.log"
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._asked = False
        self._popen = self._spawn()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    def wait_ready(self, timeout_s: float = START_S) -> dict[str, Any]:
        """The program's ready line.

        Raises:
            ProcessError: It ended first, or was not ready in time.
        """
        wait_for(lambda: self._popen.poll() is not None or bool(self._ready()), timeout_s)
        ready = self._ready()
        if ready:
            return ready
        ended = self._popen.poll()
        how = f"ended with code {ended}" if ended is not None else f"not ready in {timeout_s:.0f} s"
        raise ProcessError(f"{self.program.name}: {how}: read {self._log}{log_tail(self._log)}")

    def ended(self) -> int | None:
        """The exit code, once it has ended."""
        return self._popen.poll()

    def restart(self) -> None:
        """Start it again after it ended by itself.

        Raises:
            ProcessError: It has ended five times within a minute.
        """
        now = time.monotonic()
        full = len(self._restarts) == MAX_RESTARTS
        if full and now - self._restarts[0] < RESTART_WINDOW_S:
            raise ProcessError(
                f"{self.program.name} ends again and again (code {self._popen.poll()}): "
                f"read {self._log}{log_tail(self._log)}"
            )
        self._restarts.append(now)
        self._popen = self._spawn()

    def terminate(self) -> None:
        """Ask it to end, without waiting; once, as some take a second signal for impatience."""
        if self._popen.poll() is None and not self._asked:
            self._asked = True
            self._popen.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        if self._popen.poll() is None:
            self.terminate()
            try:
                self._popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._asked = False
        rotate(self._log)
        command = (sys.executable, "-m", self.program.module, *self.program.args)
        with self._out.open("wb") as out, self._log.open("ab") as log:
            return subprocess.Popen(
                (*dying_with_this(signal.SIGTERM), *command),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        merged = {**os.environ, "PYTHONUNBUFFERED": "1", **self.program.environment}
        return {name: value for name, value in merged.items() if value is not None}

    def _ready(self) -> dict[str, Any]:
        """The first whole line that says so, after whatever a library prints before it."""
        with self._out.open("rb") as file:
            lines = file.read(_MAX_OUT).split(b"\n")[:-1]
        for line in lines:
            if line.startswith(b"{"):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if row.get("ready"):
                    return dict(row)
        return {}
