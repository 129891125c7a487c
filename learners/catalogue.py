"""Which learners there are; each is imported only when it is asked for."""

from importlib import import_module
from typing import cast

from learners.contract import Learner
from learners.errors import SpecError

_MODULES = {
    "best_fixed": "learners.best_fixed",
    "linucb": "learners.linucb",
    "river": "learners.river_linear",
    "vw": "learners.vw",
}

NAMES: tuple[str, ...] = tuple(_MODULES)


def load(name: str) -> Learner:
    """The learner of that name.

    Raises:
        SpecError: There is none.
    """
    if name not in _MODULES:
        raise SpecError(f"no learner {name!r}: there are {', '.join(NAMES)}")
    return cast("Learner", import_module(_MODULES[name]))
