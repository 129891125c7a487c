"""A bundle's heads at the edge: what they answer, and which arms their guards leave."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edge.errors import ProblemError
from kernels.signals.heads import Head, HeadBank
from learners.bundle import Bundle
from learners.errors import MiscomputedError
from learners.head_bank import HeadGuard, Heads, ServedHead, vector_of
from learners.records import Context, ContextValue

TOLERANCE = 1e-3
"""Of a chance: edges compute in single precision, and what is logged has four places."""
PLACES = 4
MOST_LOGGED = 32
"""Classes of a head whose chances are all logged; of one with more, those that a version reads."""
MOST_CHANCES = 128
"""Of all heads that are logged so: a decision's line holds 512 features, half of them may be given.
"""


def bank_of(heads: Heads) -> HeadBank:
    """The heads as they are applied.

    Raises:
        MiscomputedError: They are no family, or compute otherwise than where they were trained.
    """
    try:
        bank = HeadBank([_applied(one) for one in heads.served])
        for one in heads.served:
            _check(one, HeadBank([_applied(one, alone=True)]))
    except MiscomputedError:
        raise
    except ValueError as error:
        raise MiscomputedError(f"the heads cannot be applied: {error}") from error
    return bank


def answers(heads: Heads, bank: HeadBank, context: Context, read: Collection[str]) -> Context:
    """What the heads say of a context, as it is logged.

    A vector that an application gives may be too long for single precision: what a head makes of
    it is no number, so that head says nothing.

    Args:
        heads: of a bundle.
        bank: the same, as :func:`bank_of` makes it.
        context: with the vectors that there are.
        read: names of the features that the bundle's versions read.
    """
    vectors = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for feature, size in bank.dimensions.items():
            vector = vector_of(context, feature, size)
            if vector is not None:
                vectors[feature] = vector.astype(np.float32)
        told = bank.read(vectors)
    blind = {
        _head_of(name)
        for name, value in told.items()
        if not isinstance(value, str) and not math.isfinite(value)
    }
    few = _in_full(heads)
    found: dict[str, ContextValue] = {}
    for name, value in told.items():
        if _head_of(name) in blind:
            continue
        if isinstance(value, str):
            found[name] = value
        elif name.partition(".")[0] in {*few, "ood"} or name in read:
            found[name] = round(value, PLACES)
    return found


def held(bundle: Bundle, context: Context) -> list[HeadGuard]:
    """The guards that hold for a context.

    A guard holds where its head is sure enough, and where it or its parent could not be asked since
    a vector is not there: who knows nothing of a request does not know that it is harmless. It does
    not hold where no version of the head serves, or its parent found nothing.
    """
    served = bundle.heads.by_name if bundle.heads.guards else {}
    return [guard for guard in bundle.heads.guards if _holds(guard, served, context)]


def permitted(
    bundle: Bundle, guards: Sequence[HeadGuard], names: Sequence[str], *, tried: bool = False
) -> tuple[str, ...]:
    """Of these arms, those whose cards carry the tags of all guards that hold.

    Raises:
        ProblemError: None is left (503), and none has been ``tried`` before.
    """
    if not guards:
        return tuple(names)
    tags = {guard.tag for guard in guards}
    left = tuple(n for n in names if tags <= set(bundle.arms[bundle.index[n]].card.tags))
    if names and not left and not tried:
        raise ProblemError(
            503,
            "guarded",
            f"none of the arms {list(names)} has the tags {sorted(tags)}, and only such may serve "
            "this request",
            remedy=f"tag an arm, or change the guards of policy {bundle.policy!r}",
        )
    return left


def _in_full(heads: Heads) -> set[str]:
    """The heads whose chances are all logged, those that were declared first before others."""
    found, room = set(), MOST_CHANCES
    for one in heads.served:
        classes = len(one.model.classes)
        if classes <= min(MOST_LOGGED, room):
            room -= classes
            found.add(one.name)
    return found


def _head_of(name: str) -> str:
    """Whose value stands under a name; an ood head's is of another head than one of its name."""
    return name if name.startswith("ood.") else name.partition(".")[0]


def _applied(one: ServedHead, *, alone: bool = False) -> Head:
    model = one.model
    return Head(
        name=one.name,
        classes=model.classes,
        feature=one.feature,
        weights=model.weights.astype(np.float32),
        bias=model.bias.astype(np.float32),
        kind=model.kind,
        temperature=model.temperature,
        threshold=model.threshold,
        parent=None if alone else one.parent,
        spread=None if model.spread is None else model.spread.astype(np.float32),
    )


def _check(one: ServedHead, bank: HeadBank) -> None:
    """Reproduce the golden vectors by the way in which requests are read."""
    for golden in one.golden:
        found = bank.read({one.feature: np.array(golden.vector, dtype=np.float32)})
        if one.model.kind == "ood":
            got, wanted = [found[f"ood.{one.name}"]], golden.chances[1:]
        else:
            got = [found[f"{one.name}.{name}"] for name in one.model.classes]
            wanted = golden.chances
        gap = float(np.abs(np.asarray(got, dtype=np.float64) - np.asarray(wanted)).max())
        if not gap <= TOLERANCE:
            raise MiscomputedError(f"head {one.name!r} is off by {gap:.3g}: do not serve it")


def _holds(guard: HeadGuard, served: Mapping[str, ServedHead], context: Context) -> bool:
    head = served.get(guard.head)
    if head is None:
        return False
    kind, classes = head.model.kind, head.model.classes
    chance: Any = context.get(f"ood.{head.name}" if kind == "ood" else f"{head.name}.{classes[1]}")
    if isinstance(chance, int | float) and math.isfinite(chance):
        return chance >= guard.at_least
    parent = served.get(head.parent) if head.parent is not None else None
    return parent is None or context.get(parent.name) != parent.model.classes[0]
