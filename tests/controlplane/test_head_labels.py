"""What labels are worth: who says them, which teach, and what one source may hold."""

from typing import Any
from uuid import UUID

import numpy as np
import pytest

from controlplane.config import SourcesConfig
from controlplane.head_labels import (
    CLASS,
    NOBODY,
    TIE,
    TRUST,
    Tally,
    Told,
    Vote,
    remedies,
    sufficed,
    voted,
    weighed,
)
from controlplane.heads_config import HeadConfig, WeakSufficesConfig
from storage.heads import EarnedRow

HEAD = HeadConfig("topic", metric="topic", classes=("maths", "prose"), feature="sense", size=8)
ODD = HeadConfig("odd", kind="ood", metric="topic", classes=("maths",), feature="sense", size=8)
WEAK = HeadConfig("easy", kind="binary", weak_suffices=WeakSufficesConfig("a", 0.5))


def told(*labelled: tuple[int, str]) -> list[Told]:
    """A decision for each class and source."""
    return [
        Told(UUID(int=at + 1), Vote(label, ((source, 1.0),)), None)
        for at, (label, source) in enumerate(labelled)
    ]


def test_the_sources_with_more_trust_win_and_share_what_the_row_weighs() -> None:
    sources = SourcesConfig(trust={"a": 0.4, "b": 0.4, "c": 0.7, "d": 0.0})
    said = {"a": "maths", "b": "maths", "c": "prose", "d": "prose"}
    vote = voted(said, HEAD, sources)
    assert isinstance(vote, Vote)
    assert vote.label == 0
    assert dict(vote.shares) == pytest.approx({"a": 0.4, "b": 0.4})
    together = voted({"x": "maths", "y": "maths"}, HEAD, SourcesConfig())
    assert isinstance(together, Vote)
    assert sum(weight for _, weight in together.shares) == 1.0


def test_a_trusted_source_speaks_as_nobody_in_particular() -> None:
    vote = voted({"judge": "maths"}, HEAD, SourcesConfig(trusted=("judge",)))
    assert vote == Vote(0, ((NOBODY, 1.0),))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"a": "law"}, CLASS),
        ({"mute": "maths"}, TRUST),
        ({"a": "maths", "b": "prose"}, TIE),
    ],
)
def test_a_label_that_teaches_nothing_says_why(said: dict[str, Any], why: str) -> None:
    assert voted(said, HEAD, SourcesConfig(trust={"mute": 0.0})) == why


def test_each_reason_has_its_remedy() -> None:
    found = Tally(3, {"class": 2, "tie": 1, "trust": 1, "vector": 4}, {"law": 2})
    said = remedies(HEAD, found)
    assert "'law' (2)" in said["class"]
    assert "['maths', 'prose']" in said["class"]
    assert "'sense' of 8 numbers" in said["vector"]
    assert "sources.trust" in said["trust"]
    assert "sources.trust" in said["tie"]


def test_who_spoke_of_a_reward_shares_the_label_that_it_gives() -> None:
    said = {"stars": {"ann": 1.0, "bob": 0.0}, "solved": {"ann": 1.0}}
    row = EarnedRow(UUID(int=1), None, None, 0.25, 0.9, said, 64)
    vote = sufficed(row, WEAK, SourcesConfig(trusted=("bob",)))
    assert vote.label == 1
    assert dict(vote.shares) == {"ann": 2.0, NOBODY: 2.0}
    measured = EarnedRow(UUID(int=1), None, None, 0.001, 0.1, None, 64)
    assert sufficed(measured, WEAK, SourcesConfig()) == Vote(0, ((NOBODY, 100.0),))


def test_no_source_holds_more_of_a_class_than_the_bound() -> None:
    honest = [(at % 2, f"user{at % 8}") for at in range(64)]
    flood = [(0, "flood")] * 1_000
    found = weighed(told(*honest, *flood), HEAD, 0.2)
    labels = np.array([label for label, _ in honest + flood])
    flooded = np.arange(len(labels)) >= len(honest)
    assert found.most is not None
    assert found.most.share <= 0.25 + 1e-9  # of class prose four users say a quarter each
    held = found.weight[flooded].sum() / found.weight[labels == 0].sum()
    assert held == pytest.approx(0.2)
    np.testing.assert_allclose(found.weight[~flooded][labels[~flooded] == 1], 1.0)


def test_whom_no_weights_can_bound_is_named() -> None:
    few = weighed(told(*[(0, "ann"), (0, "bob"), (1, "bob"), (1, "cem")] * 10), HEAD, 0.2)
    assert few.most is not None
    assert few.most.share == pytest.approx(0.5)
    assert (few.most.label, few.most.source) == ("maths", "ann")


def test_a_bound_of_one_changes_nothing_and_nobody_is_not_bound() -> None:
    rows = told((0, "ann"), (0, "ann"), (1, NOBODY))
    np.testing.assert_array_equal(weighed(rows, HEAD, 1.0).weight, np.ones(3))
    trusted = weighed(told((0, NOBODY), (1, NOBODY)), HEAD, 0.1)
    assert trusted.most is None
    np.testing.assert_array_equal(trusted.weight, np.ones(2))


def test_what_an_ood_head_does_not_know_is_a_class_of_its_own() -> None:
    rows = told(*[(0, NOBODY)] * 10, *[(-1, f"user{at}") for at in range(4)], *[(-1, "flood")] * 50)
    found = weighed(rows, ODD, 0.25)
    assert found.weight[:10].sum() == 10
    assert found.weight[14:].sum() / found.weight[10:].sum() == pytest.approx(0.25)
    assert found.most is not None
    assert found.most.label == "unknown"
