"""When a head learns on from its version before, and when it begins anew."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
import safetensors.numpy

from controlplane.head_labels import Told, Vote
from controlplane.head_memory import ANEW_BELOW, Memory, dump, fresh, load, remember
from controlplane.heads_config import HeadConfig
from learners.head_training import Labelled, begin, follow
from learners.heads import HeadKind
from storage.heads import NONE

SIZE, N = 6, 600
HEAD = HeadConfig("topic", metric="topic", classes=("maths", "prose"), feature="sense", size=SIZE)
LABELS = np.random.default_rng(1).integers(2, size=2 * N)
X = np.random.default_rng(2).normal(size=(2 * N, SIZE)) + LABELS[:, None]
TOLD = [
    Told(UUID(int=10 * at + 10), Vote(int(one), (("user", 1.0),)), None)
    for at, one in enumerate(LABELS)
]
ONES = np.ones(2 * N)


def rows(first: int, last: int) -> Labelled:
    n = last - first
    return Labelled(X[first:last], LABELS[first:last], np.ones(n), np.full(n, -1))


def memory(kind: HeadKind = "softmax") -> Memory:
    learnt = begin(rows(0, N), kind=kind, classes=HEAD.names)
    return remember(learnt, TOLD[:N], ONES[:N])


def test_the_labels_that_came_since_are_learnt_and_no_others() -> None:
    assert fresh(memory(), TOLD[: N + 50], ONES[: N + 50], NONE) == list(range(N, N + 50))


def test_a_label_that_comes_late_for_an_older_decision_is_learnt_too() -> None:
    late = replace(TOLD[0], decision_id=UUID(int=10 * 7 + 15))
    older = sorted([*TOLD[: N + 1], late], key=lambda one: one.decision_id)
    assert fresh(memory(), older, np.ones(len(older)), NONE) == [8, N + 1]


def test_labels_that_left_the_window_are_not_missed() -> None:
    found = fresh(memory(), TOLD[40 : N + 50], ONES[40 : N + 50], TOLD[40].decision_id)
    assert found == list(range(N - 40, N + 10))


@pytest.mark.parametrize("first", [NONE, TOLD[79].decision_id])
def test_the_oldest_labels_are_missed_where_they_were_looked_for(first: UUID) -> None:
    assert fresh(memory(), TOLD[80 : N + 50], ONES[80 : N + 50], first) is None


def test_half_as_many_labels_learnt_since_it_began_begin_anew_however_few_are_left() -> None:
    before = replace(memory(), since=250)
    left, first = slice(80, N + 49), TOLD[80].decision_id
    assert fresh(before, TOLD[left], ONES[left], first) == list(range(N - 80, N - 31))
    left = slice(80, N + 50)
    assert fresh(before, TOLD[left], ONES[left], first) is None


def test_what_an_older_program_kept_counts_what_was_learnt_since_by_its_rows() -> None:
    learnt = begin(rows(0, N), kind="softmax", classes=HEAD.names)
    whole = remember(learnt, TOLD[: N + 70], ONES[: N + 70], 70)
    tensors = safetensors.numpy.load(dump(whole))
    tensors["numbers"] = tensors["numbers"][:4]
    assert load(safetensors.numpy.save(tensors), HEAD).since == 70


@pytest.mark.parametrize(
    "change", ["said otherwise", "weighs otherwise", "taken back", "grown by half", "few"]
)
def test_what_was_learnt_and_is_no_longer_so_begins_anew(change: str) -> None:
    older, weight = list(TOLD[: N + 50]), ONES[: N + 50].copy()
    if change == "said otherwise":
        older[3] = replace(older[3], vote=Vote(1 - older[3].vote.label, older[3].vote.shares))
    elif change == "weighs otherwise":
        weight[3] = 0.5
    elif change == "taken back":
        older, weight = older[:3] + older[4:], weight[1:]
    elif change == "grown by half":
        older, weight = TOLD, ONES
    else:
        older, weight = older[: ANEW_BELOW - 1], weight[: ANEW_BELOW - 1]
    assert fresh(memory(), older, weight, NONE) is None


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_what_is_kept_learns_on_as_what_was_never_stored(kind: HeadKind) -> None:
    head = replace(HEAD, kind=kind)
    whole = replace(memory(kind), since=7)
    data = dump(whole)
    assert dump(whole) == data
    back = load(data, head)
    assert (dict(back.rows), back.since) == (dict(whole.rows), 7)
    assert dump(back) == data
    stored, kept = (
        follow(one.learnt, rows(N, N + 100), most=10_000).model() for one in (back, whole)
    )
    np.testing.assert_array_equal(stored.weights, kept.weights)
    assert stored.temperature == pytest.approx(kept.temperature, rel=1e-5)
