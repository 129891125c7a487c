"""Which learners there are; each is imported only when it is asked for."""

from importlib import import_module
from typing import cast

from learners.contract import Learner
from learners.errors import SpecError

_MODULES = {
    "always_large": "learners.always_large",
    "always_small": "learners.always_small",
    "auto": "learners.auto",
    "best_fixed": "learners.best_fixed",
    "beta_thompson": "learners.beta_thompson",
    "cheapest": "learners.cheapest",
    "ema": "learners.ema",
    "fqi": "learners.fqi",
    "hierarchical": "learners.hierarchical",
    "lints": "learners.lints",
    "linucb": "learners.linucb",
    "multi_objective": "learners.multi_objective",
    "neighbours": "learners.neighbours",
    "paced": "learners.paced",
    "per_domain": "learners.per_domain",
    "pheromone": "learners.pheromone",
    "reinforce": "learners.reinforce",
    "river": "learners.river_linear",
    "river_logistic": "learners.river_logistic",
    "river_tree": "learners.river_tree",
    "shared_linucb": "learners.shared_linucb",
    "uniform": "learners.uniform",
    "vw": "learners.vw",
    "vw_ensemble": "learners.vw_ensemble",
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
