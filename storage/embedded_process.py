"""A child process that dies with its parent, its log, and a private directory for its socket."""

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Bytes: the kernel takes 107 on Linux and 103 on macOS."""
MAX_LOG_BYTES = 10 * 1024 * 1024
LOG_TAIL_LINES = 8
STEP_S = 0.02
_PROC = Path("/proc")
_LAUNCH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("embedded_launch.py")))


class EmbeddedError(RuntimeError):
    """An embedded service can't be started, or has died."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, how to end it, and where it writes.

    ``signals`` are tried in order, each with the seconds that it is given.
    """

    name: str
    args: tuple[str, ...]
    cwd: Path
    log: Path
    signals: tuple[tuple[signal.Signals, float], ...]
    account: Account | None = None


class Child:
    """A running service."""

    def __init__(self, command: Command) -> None:
        self.command = command
        rotate(command.log)
        with command.log.open("ab") as log:
            self._process = spawn(command, log.fileno())

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise when the child has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise EmbeddedError(
                f"the embedded {self.command.name} (process {self.pid}) ended with code {code}: "
                f"read {self.command.log} and start again{log_tail(self.command.log)}"
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when ``ready`` says so.

        Raises:
            EmbeddedError: The child ended first, or was not ready in time.
        """
        if not wait_for(lambda: self._process.poll() is not None or ready(), timeout_s):
            raise EmbeddedError(
                f"the embedded {self.command.name} was not ready in {timeout_s:.0f} s: "
                f"read {self.command.log}{log_tail(self.command.log)}"
            )
        self.check()

    def stop(self) -> None:
        for sent, patience_s in self.command.signals:
            if self._process.poll() is not None:
                return
            self._process.send_signal(sent)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def spawn(command: Command, log_fd: int) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, so that Ctrl-C in the terminal does not reach it.

    It is signalled when the calling *thread* is gone.
    """
    return subprocess.Popen(
        (*dying_with_this(command.signals[0][0], command.account), *command.args),
        cwd=command.cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        start_new_session=True,
    )


def dying_with_this(sent: signal.Signals, account: Account | None = None) -> tuple[str, ...]:
    """What to put before a command so that it gets a signal when this thread is gone."""
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    return (*_LAUNCH, *map(str, (os.getpid(), int(sent), uid, gid)))


def environment() -> dict[str, str]:
    """Little enough that no PGPORT or LD_PRELOAD of the user's changes a service."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(STEP_S)
    return True


def end_orphans(
    program: str, directory: Path, signals: Sequence[tuple[signal.Signals, float]]
) -> bool:
    """End what a killed parent left: processes of ``program`` that work in ``directory``.

    They are mostly on their way out already. Returns whether this system can tell that none is
    left.

    Raises:
        EmbeddedError: One of them does not end.
    """
    if not (_PROC / "self" / "cwd").exists():
        return False
    for sent, patience_s in signals:
        for pid in working_in(program, directory):
            _signal(pid, sent)
        if wait_for(lambda: not working_in(program, directory), patience_s):
            return True
    raise EmbeddedError(
        f"{program} {working_in(program, directory)} from an earlier run does not end and holds "
        f"{directory}: end it by hand and start again"
    )


def working_in(program: str, directory: Path) -> list[int]:
    return [
        int(entry.name)
        for entry in _PROC.iterdir()
        if entry.name.isdigit()
        and _link(entry / "cwd") == str(directory)
        and Path(_link(entry / "exe")).name.split(" ")[0] == program
    ]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # it is gone, or is not ours to look at
        return ""


def _signal(pid: int, sent: signal.Signals) -> None:
    try:
        os.kill(pid, sent)
    except ProcessLookupError:
        return


def rotate(log: Path) -> None:
    log.parent.mkdir(mode=0o700, exist_ok=True)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def log_tail(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n" + "\n".join(f"  | {line}" for line in lines[-LOG_TAIL_LINES:])


def socket_dir(preferred: Path, socket_name: str, account: Account | None = None) -> Path:
    """A directory that only ``account`` (and root) can enter, with a short enough path.

    It is ``preferred``, or a directory below the system's temporary one that is named after it.

    Raises:
        EmbeddedError: Somebody else made that directory first.
    """
    uid, gid = (account.uid, account.gid) if account else (os.geteuid(), os.getegid())
    if len(os.fsencode(preferred / socket_name)) <= MAX_SOCKET_PATH:
        return private_dir(preferred, uid, gid)
    name = f"pointsman-{hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 -- checked in private_dir
        if len(os.fsencode(parent / name / socket_name)) <= MAX_SOCKET_PATH:
            return private_dir(parent / name, uid, gid)
    raise EmbeddedError(f"{preferred} is too long for a socket: choose a shorter directory")


def private_dir(path: Path, uid: int, gid: int) -> Path:
    """Make ``path`` a directory that only ``uid`` can enter.

    Raises:
        EmbeddedError: It is there already and is a link, a file, or another account's.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        if uid != os.geteuid():
            os.chown(path, uid, gid, follow_symlinks=False)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise EmbeddedError(
            f"{path} is not a directory of account {uid}, but of {found.st_uid}: "
            "remove it, or choose another data directory"
        )
    if found.st_uid != uid:  # ours, from a start that was cut off before the chown
        os.chown(path, uid, gid, follow_symlinks=False)
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def account_below_root() -> Account:
    """The account that stands in for root: ``postgres`` where it exists, else ``nobody``."""
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "Postgres refuses to run as root, and there is neither an account postgres nor nobody: "
        "run as another account, or give the URL of your own Postgres"
    )


def owner_of(path: Path) -> Account:
    """The account that ``path`` belongs to, with its group."""
    found = path.stat()
    try:
        name = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:  # a number is enough to run as
        name = str(found.st_uid)
    return Account(name, found.st_uid, found.st_gid)


def can_enter(directory: Path, account: Account) -> bool:
    """Ask the system rather than reading modes: access lists and containers have a say too."""
    try:
        asked = subprocess.run(
            (shutil.which("sh") or "/bin/sh", "-c", 'test -x "$0"', str(directory)),
            cwd="/",
            env=environment(),
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(
            f"cannot run a program as {account.name}: {error}; run as another account than root, "
            "or give the URL of your own Postgres"
        ) from error
    return asked.returncode == 0
