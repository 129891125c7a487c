"""Which labels a head reads and counts, when it trains on them, and what it does where some go."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from controlplane import head_labels, head_looks
from controlplane.config import read_config
from controlplane.heads_config import HeadConfig
from storage import heads as stored
from storage import policies
from storage.heads import NONE, Span
from tests.controlplane.heads_world import DOMAIN_HEAD, DOMAINS, SIZE, HeadsWorld
from tests.controlplane.learning_world import NOW

HEAD = HeadConfig("topic", metric="topic", classes=DOMAINS, feature="sense", size=SIZE)
FEW = {**DOMAIN_HEAD, "max_labels": 1_000}
LATER = NOW + timedelta(minutes=1)


def read(at: HeadsWorld, head: HeadConfig) -> head_labels.Read:
    with at.engine.connect() as connection:
        config = read_config(policies.get_policy(connection, at.policy_id).config)
        return head_labels.read(connection, at.policy_id, config, head)


def needed(at: HeadsWorld, head: HeadConfig) -> int:
    with at.engine.connect() as connection:
        look = head_looks.newest(connection, at.policy_id, head)
    assert look is not None
    return look.needed


def test_the_oldest_labels_are_unlearnt_where_they_are_taken_back(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(900, seed=20)
    at.step()
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE feedback SET retracted_at = :now WHERE feedback_id IN "
                "(SELECT feedback_id FROM feedback ORDER BY decision_id LIMIT 80)"
            ),
            {"now": NOW},
        )
    at.teach(300, seed=21)
    (second,) = at.step()
    assert second.numbers["continued"] is None
    assert second.labels == 1_120


def test_a_head_at_its_most_labels_learns_on_and_begins_anew_in_turn(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, FEW)
    at.teach(1_000, seed=20)
    made = at.step()
    for seed in range(21, 24):
        at.teach(250, seed=seed)
        made += at.step()
    assert [one.labels for one in made] == [1_000] * 4
    # It began with 700: after 250 it learns on, after 500 it begins anew.
    assert [one.numbers["continued"] for one in made] == [None, 1, None, 3]


def test_what_is_read_says_from_where(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(120, seed=20)
    every = read(at, HEAD)
    assert (len(every.told), every.since) == (120, NONE)
    cut = read(at, replace(HEAD, max_labels=100))
    assert (cut.told, cut.since) == (every.told[20:], every.told[20].decision_id)


def test_a_window_that_is_full_begins_at_its_oldest_decision(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    ids = at.grow([0] * 30, seed=20)
    arm = "SELECT decision_id FROM decisions WHERE action = 'a' ORDER BY decision_id"
    with engine.connect() as connection:
        served = connection.scalars(sa.text(arm)).all()
        for window, said in ((10, ids[20]), (30, ids[0]), (31, None)):
            span = Span("sense", SIZE, 100, window=window)
            assert stored.oldest_said(connection, at.policy_id, span) == said
        for window, earned in ((2, served[-2]), (len(served) + 1, None)):
            span = Span("sense", SIZE, 100, window=window)
            assert stored.oldest_earned(connection, at.policy_id, span, arm="a") == earned


def test_labels_without_a_vector_take_no_room_from_those_that_train(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, {**DOMAIN_HEAD, "max_labels": 100})
    at.teach(80, seed=20)
    ids = at.grow([0] * 120, seed=21, context={})
    at.say(ids, "topic", ["maths"] * 120)
    (made,) = at.step()
    assert made.labels == 80


def test_only_a_head_that_learns_on_is_trained_for_a_thousand_more(engine: sa.Engine) -> None:
    slow: dict[str, Any] = {"growth": 10, "auto_publish": False}
    odd = {**DOMAIN_HEAD, "name": "odd", "kind": "ood", "classes": ["maths"], **slow}
    rare = {**DOMAIN_HEAD, "name": "rare", "min_labels": 80, **slow}
    at = HeadsWorld(engine, {**DOMAIN_HEAD, **slow}, odd, rare)
    ids = at.grow([0, 0, 0, 0, 1] * 60, seed=20)
    at.say(ids, "topic", ["maths", "maths", "maths", "maths", "prose"] * 60)
    made = {one.name: one for one in at.step()}
    assert [made[name].model != {} for name in ("topic", "odd", "rare")] == [True, True, False]
    assert at.step(LATER) == []
    assert needed(at, HEAD) == 1_000
    assert needed(at, replace(HEAD, name="odd", kind="ood", classes=("maths",))) == 2_700
    assert needed(at, replace(HEAD, name="rare")) == 2_700
