"""Becomes an embedded service: gives up its account, asks to die with its parent, and executes.

Run as a program of its own and not between fork and exec, where only one thread of the parent
lives and Python may hang. It imports nothing of ours, for the account may not reach our folder.

    python -I -S embedded_launch.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_FAILED = 127


def launch(arguments: list[str]) -> None:
    """Replace this process by the program; a UID of -1 keeps the account."""
    parent, sent, uid, gid = (int(argument) for argument in arguments[:4])
    program = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_parent(parent, sent)
    os.execv(program[0], program)  # noqa: S606 -- no shell is wanted


def die_with_parent(parent: int, sent: int) -> None:
    """Let the kernel send a signal when the parent, the *thread* that forked, is gone.

    A change of account clears this, so it comes after. On other systems than Linux an orphan is
    left for the next start to end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sent, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        sys.exit(_FAILED)


if __name__ == "__main__":
    try:
        launch(sys.argv[1:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[5]} as account {sys.argv[3]}: {error}")
