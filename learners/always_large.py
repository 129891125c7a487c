"""The reference that always serves the dearest arm; see :mod:`learners.boundary`."""

from functools import partial

from learners import boundary
from learners.boundary import PARAMS, PROMISES, freeze, learn, rearm, snapshot

__all__ = [
    "NAME",
    "PARAMS",
    "PROMISES",
    "freeze",
    "init",
    "learn",
    "rearm",
    "restore",
    "snapshot",
]

NAME = boundary.LARGE
init = partial(boundary.init, NAME)
restore = partial(boundary.restore, NAME)
