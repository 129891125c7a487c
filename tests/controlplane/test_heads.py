"""Heads from feedback to a bundle, and back."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import agenda, head_learning, head_looks, heads
from controlplane.errors import GateError, InvalidError, NotFoundError
from controlplane.head_labels import Read, Told, Vote
from controlplane.head_learning import Ground
from controlplane.heads_config import HeadConfig
from controlplane.served_heads import load
from edge.heads import held, permitted
from edge.metrics import Metrics
from edge.reading import Reader
from learners.bundle import Bundle
from learners.head_measures import evaluate
from learners.ids import ENTROPY_BYTES, uuid7
from storage import heads as stored
from storage import releases, work
from storage.heads import StoredHead
from tests.controlplane.heads_world import DOMAIN_HEAD, DOMAINS, SIZE, Floats, HeadsWorld, vectors
from tests.controlplane.learning_world import NOW, PUBLISHER, SPECIALISTS

LABELS = np.random.default_rng(9).integers(2, size=400)
FRESH = vectors(LABELS, seed=10)
WEAK: dict[str, Any] = {
    "name": "easy",
    "kind": "binary",
    "weak_suffices": {"arm": "a", "at_least": 1.0},
    "feature": "sense",
    "size": SIZE,
}
UNSAFE: dict[str, Any] = {
    "name": "unsafe",
    "kind": "binary",
    "metric": "unsafe",
    "feature": "sense",
    "size": SIZE,
}


def quality(bundle: Bundle, name: str = "topic") -> float:
    """Log-loss of a bundle's head on requests that nobody has labelled."""
    return evaluate(bundle.heads.by_name[name].model, FRESH, LABELS).log_loss


def context_of(bundle: Bundle, vector: Floats) -> dict[str, Any]:
    """What an edge makes of a request that brings this vector."""
    reader = Reader(Metrics())
    return dict(asyncio.run(reader.read(bundle, None, {"sense": vector.tolist()})))


def earned(bundle: Bundle) -> float:
    """The expected reward of what a bundle decides, over requests with known topics."""
    total = 0.0
    for label, vector in zip(LABELS[:100], FRESH[:100], strict=True):
        chances = bundle.distribution(context_of(bundle, vector), list("abcd"))
        total += float(chances @ np.array(SPECIALISTS[DOMAINS[label]]))
    return total / 100


def test_feedback_becomes_a_head_that_serves_and_a_policy_that_earns_more(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD, auto_promote=True)
    before = at.serial()
    assert at.world.bundle().heads.logged == (("sense", SIZE),)
    assert at.step() == []  # nobody has said anything yet
    at.teach(300, seed=20)
    (made,) = at.step()
    assert (made.number, made.state, made.passed) == (1, "candidate", True), made.summary
    assert made.numbers["over"]["low"] > 0
    bundle = at.world.bundle()
    assert bundle.serial == before + 1
    assert quality(bundle) < 0.5 * np.log(2)

    context = context_of(bundle, FRESH[0])
    assert context["topic"] == DOMAINS[LABELS[0]]
    chances = [context["topic.maths"], context["topic.prose"]]
    assert sum(chances) == pytest.approx(1.0, abs=1e-3)

    # What the edge reads off its head is logged, and the policy learns from it.
    even = earned(bundle)
    labels = np.random.default_rng(30).integers(2, size=1_600)
    read = vectors(labels, seed=30)
    topics = [context_of(bundle, vector)["topic"] for vector in read[:50]]
    assert np.mean([t == DOMAINS[label] for t, label in zip(topics, labels, strict=False)]) > 0.9
    at.grow(labels, seed=30, topic="topic")
    at.settle()
    assert at.world.round().summary["published"]
    assert earned(at.world.bundle()) > even + 0.2


def test_a_worse_head_is_refused_and_the_better_one_goes_on_serving(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(300, seed=20)
    at.step()
    serial, good = at.serial(), quality(at.world.bundle())
    # For a while somebody labels by a dice, so most of what trains next is wrong.
    at.teach(500, seed=21, wrong=True)
    at.teach(350, seed=22)
    (made,) = at.step()
    assert not made.passed
    assert made.numbers["over"]["high"] < 0
    assert made.state == "refused"
    assert "not served" in made.summary
    assert at.states() == [(1, "serving"), (2, "refused")]
    assert at.serial() == serial
    assert quality(at.world.bundle()) == good


def test_more_labels_make_a_better_head_which_takes_over(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(60, seed=20, noise=2.5)
    first = at.step()
    at.teach(2_500, seed=21, noise=2.5)
    (second,) = at.step()
    assert first[0].number + 1 == second.number
    assert second.passed, second.summary
    serving = at.serving()
    assert serving is not None
    assert serving.number == second.number
    assert at.world.bundle().heads.by_name["topic"].version == second.number


def test_too_few_labels_of_a_class_are_said_and_wait_for_more(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    ids = at.grow([0] * 95 + [1] * 5, seed=20)
    at.say(ids, "topic", ["maths"] * 95 + ["prose"] * 5)
    (made,) = at.step()
    assert (made.passed, made.model) == (False, {})
    assert "class 'prose' has 0 labels that trained, fewer than the 20 needed" in made.summary
    assert at.world.bundle().heads.served == ()
    assert at.step() == []  # nothing is tried again before there is more


def test_labels_that_say_nothing_to_a_head_do_not_train_it_again(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(300, seed=20)
    at.step()
    ids = at.grow([0] * 120, seed=30)
    at.say(ids, "topic", ["law"] * 120)  # a category of the metric, and none of the head's
    assert at.step(NOW + timedelta(minutes=1)) == []
    assert at.step(NOW + timedelta(minutes=2)) == []
    assert at.states() == [(1, "serving")]
    at.teach(120, seed=40)
    assert [one.number for one in at.step(NOW + timedelta(minutes=3))] == [2]


def test_a_training_that_fails_is_an_attempt_that_says_why() -> None:
    head = HeadConfig("topic", metric="topic", classes=DOMAINS, feature="sense", size=SIZE)
    ids = [uuid7(NOW, at.to_bytes(ENTROPY_BYTES, "big")) for at in range(400)]
    told = tuple(
        Told(one, Vote(int(label), (("user", 1.0),)), None)
        for one, label in zip(ids, LABELS, strict=True)
    )
    ground = Ground(ids[0], head, newest=None, serving=None, look=1)
    endless = dict.fromkeys(ids, np.full(SIZE, np.inf))
    made = head_learning.learn(ground, head_learning.plan(ground, Read(told)), endless)
    assert made.model is None
    assert not made.verdict.passed
    assert made.verdict.summary.startswith("not served: training failed: row 0")


def test_a_rollback_serves_what_was_displaced_and_holds(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(300, seed=20)
    at.step()
    serial = at.serial()

    def roll_back() -> None:
        with engine.begin() as connection:
            heads.rollback(
                connection, PUBLISHER, at.policy_id, "topic", now=NOW + timedelta(minutes=1)
            )

    roll_back()
    assert at.states() == [(1, "reverted")]
    assert at.world.bundle().heads.served == ()
    assert at.serial() == serial + 1
    with pytest.raises(NotFoundError, match="no version of head 'topic' serves"):
        roll_back()

    at.teach(300, seed=21)
    (made,) = at.step()
    assert made.passed
    assert at.states()[-1] == (2, "candidate")  # it waits: a person took the head back
    with engine.begin() as connection:
        heads.publish(connection, PUBLISHER, at.policy_id, "topic", 2, now=NOW)
    assert at.world.bundle().heads.by_name["topic"].version == 2
    with engine.begin() as connection:
        later = NOW + timedelta(minutes=2)
        heads.publish(connection, PUBLISHER, at.policy_id, "topic", 1, now=later)
    roll_back()
    assert at.states() == [(1, "reverted"), (2, "serving")]


def test_a_version_that_was_refused_cannot_be_published(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(200, seed=20, wrong=True)
    (made,) = at.step()
    with engine.begin() as connection, pytest.raises(GateError, match="may not serve") as refused:
        heads.publish(connection, PUBLISHER, at.policy_id, "topic", made.number, now=NOW)
    assert refused.value.checks


def test_a_head_that_is_declared_anew_begins_anew(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(300, seed=20)
    at.step()
    three = {**DOMAIN_HEAD, "classes": ["maths", "prose", "law"]}
    at.declare(three, features=[{"name": "topic", "kind": "category", "values": ["law"]}])
    assert at.world.bundle().heads.served == ()
    at.declare()
    assert at.world.bundle().heads.empty
    at.declare(DOMAIN_HEAD)
    assert at.world.bundle().heads.by_name["topic"].version == 1


def test_whether_the_weak_arm_suffices_is_learnt_from_what_it_earned(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, WEAK)
    labels = np.random.default_rng(40).integers(2, size=2_000)
    at.grow(labels, seed=40)
    at.settle()
    (made,) = at.step()
    assert made.passed, made.summary
    # Only the weak arm's own decisions are labelled: a quarter of them.
    assert 400 < made.labels < 600
    model = at.world.bundle().heads.by_name["easy"].model
    chances = model.probabilities(FRESH)[:, 1]
    for label, domain in enumerate(DOMAINS):
        truth = SPECIALISTS[domain][0]
        assert chances[label == LABELS].mean() == pytest.approx(truth, abs=0.2)


def test_a_guard_leaves_only_tagged_arms_where_its_head_is_sure(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, UNSAFE)
    guard = {"head": "unsafe", "at_least": 0.8, "tag": "safe"}
    at.declare(UNSAFE, guards=[guard])
    bundle = at.world.bundle()
    # No version serves yet: nothing is held back.
    assert held(bundle, {}) == []
    labels = np.random.default_rng(50).integers(2, size=400)
    ids = at.grow(labels, seed=50)
    at.say(ids, "unsafe", [bool(label) for label in labels])
    at.step()
    bundle = at.world.bundle()
    for label, vector in zip(LABELS[:60], FRESH[:60], strict=True):
        context = context_of(bundle, vector)
        guards = held(bundle, context)
        assert bool(guards) == (context["unsafe.yes"] >= 0.8)
        if guards:
            assert label == 1
            assert permitted(bundle, guards, tuple("abcd")) == ("c",)
    # A request of which the head can say nothing is not known to be harmless.
    assert len(held(bundle, {})) == 1


def test_several_sources_are_weighed_by_their_trust(engine: sa.Engine) -> None:
    trust = {"trust": {"bot": 0.0, "*": 1.0}}
    at = HeadsWorld(engine, DOMAIN_HEAD, sources=trust)
    labels = np.random.default_rng(60).integers(2, size=300)
    ids = at.grow(labels, seed=60)
    at.say(ids, "topic", [DOMAINS[label] for label in labels])
    at.say(ids, "topic", ["maths"] * 300, source="bot")
    (made,) = at.step()
    assert made.passed, made.summary
    assert quality(at.world.bundle()) < 0.35


def test_one_source_cannot_swing_a_head(engine: sa.Engine) -> None:
    """Ten honest sources label 30 decisions each; one labels 600 with their opposite."""
    labels = np.random.default_rng(61).integers(2, size=900)

    at = HeadsWorld(engine, DOMAIN_HEAD)
    ids = at.grow(labels, seed=61)
    for number, (one, label) in enumerate(zip(ids, labels, strict=True)):
        honest = number % 3 == 0
        source = f"user{number % 10}" if honest else "flood"
        at.say([one], "topic", [DOMAINS[label if honest else 1 - label]], source=source)

    def right(bound: float) -> float:
        at.declare(DOMAIN_HEAD, sources={"max_influence": bound})
        (made,) = at.step()
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM heads"))
        return evaluate(load(made), FRESH, LABELS).accuracy

    assert right(1.0) < 0.2
    assert right(0.2) > 0.9


def test_what_too_few_sources_say_is_not_served_and_says_what_to_do(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD, sources={"max_influence": 0.2})
    at.teach(300, seed=20)
    (made,) = at.step()
    assert (made.passed, made.model) == (False, {})
    assert "source 'user' holds 100% of the weight of class" in made.summary
    assert "have 5 sources or more label it, or name one you believe in" in made.summary
    at.declare(DOMAIN_HEAD, sources={"max_influence": 0.2, "trusted": ["user"]})
    at.teach(150, seed=21)
    (made,) = at.step()
    assert made.passed, made.summary


def test_labels_that_teach_nothing_are_counted_with_a_remedy_and_found_once(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    ids = at.grow([0] * 40, seed=30)
    at.say(ids, "topic", ["law"] * 40)
    at.teach(10, seed=31)
    head = HeadConfig("topic", metric="topic", classes=DOMAINS, feature="sense", size=SIZE)
    for minute in range(3):
        assert at.step(NOW + timedelta(minutes=minute)) == []
    with engine.connect() as connection:
        look = head_looks.newest(connection, at.policy_id, head)
        found = releases.list_findings(connection, at.policy_id)
    assert look is not None
    assert (look.usable, look.needed, look.looked_at) == (10, 58, NOW + timedelta(minutes=2))
    (unfit,) = look.unfit
    assert (unfit.why, unfit.count) == ("class", 40)
    assert "'law' (40)" in unfit.remedy
    assert len(found) == 1
    assert found[0].severity == "warning"
    assert found[0].summary.startswith("head topic: 40 of 50 new labels teach nothing: 40, as they")


def test_vectors_of_another_length_are_counted_too(engine: sa.Engine) -> None:
    longer = {**DOMAIN_HEAD, "size": SIZE + 1}
    at = HeadsWorld(engine, longer)
    at.teach(30, seed=20)
    assert at.step() == []
    with engine.connect() as connection:
        head = HeadConfig("topic", metric="topic", classes=DOMAINS, feature="sense", size=SIZE + 1)
        look = head_looks.newest(connection, at.policy_id, head)
    assert look is not None
    assert [(one.why, one.count) for one in look.unfit] == [("vector", 30)]
    assert f"no 'sense' of {SIZE + 1} numbers" in look.unfit[0].remedy


def test_children_are_brought_only_with_their_parent(engine: sa.Engine) -> None:
    child = {**DOMAIN_HEAD, "parent": "unsafe"}
    at = HeadsWorld(engine, UNSAFE, child)
    at.teach(300, seed=20)
    at.step()
    assert at.serving() is not None
    assert at.world.bundle().heads.served == ()
    ids = at.grow(LABELS, seed=70)
    at.say(ids, "unsafe", [bool(label) for label in LABELS])
    at.step(NOW + timedelta(minutes=2))
    brought = at.world.bundle().heads.by_name
    assert list(brought) == ["unsafe", "topic"]
    safe, unsafe = (FRESH[label == LABELS][0] for label in (0, 1))
    bundle = at.world.bundle()
    assert "topic" in context_of(bundle, unsafe)
    assert "topic" not in context_of(bundle, safe)


def test_a_tick_finds_a_policy_with_heads_once_a_minute(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    now = NOW + timedelta(days=1)
    with engine.begin() as connection:
        found = agenda.find(connection, now)
    due = work.Due(at.policy_id, work.HEADS)
    assert due in found
    with work.lease(engine, due, "test", now):
        agenda.perform(engine, PUBLISHER, due)
    for seconds, is_due in ((30, False), (120, True)):
        with engine.begin() as connection:
            again = agenda.find(connection, now + timedelta(seconds=seconds))
        assert (due in again) == is_due


def refused(at: HeadsWorld, *declared: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InvalidError) as error:
        at.declare(*declared, **more)
    return f"{error.value.field}: {error.value}"


def test_declarations_that_cannot_work_are_refused_with_field_and_remedy(engine: sa.Engine) -> None:
    at = HeadsWorld(engine)
    odd = {"name": "odd", "kind": "ood", "metric": "topic", "feature": "sense", "size": SIZE}
    cases = {
        "heads.name": [({**DOMAIN_HEAD, "name": "terms"}, "none of")],
        "heads.metric": [
            ({**DOMAIN_HEAD, "metric": "mood"}, "PUT /v1/metrics/mood"),
            ({**DOMAIN_HEAD, "metric": "score"}, "give a boolean or a category"),
            ({**UNSAFE, "metric": "solved"}, "a boolean of episodes"),
            ({**DOMAIN_HEAD, "weak_suffices": WEAK["weak_suffices"]}, "one of both"),
        ],
        "heads.kind": [
            ({**UNSAFE, "kind": "softmax", "classes": ["x", "y"]}, "give kind binary"),
            ({**WEAK, "kind": "softmax"}, "give binary"),
        ],
        "heads.classes": [
            (
                {**DOMAIN_HEAD, "name": "subject", "classes": ["maths", "art"]},
                "'art' is no category",
            ),
            ({**DOMAIN_HEAD, "classes": []}, "give 2 to"),
            (odd, "name the categories that are known"),
            ({**odd, "classes": ["maths", "maths"]}, "each once"),
            ({**UNSAFE, "classes": ["no\x00", "yes"]}, "without NUL"),
        ],
        "heads.feature": [
            ({**UNSAFE, "feature": ""}, "give 1 to 128 characters"),
            ({**UNSAFE, "feature": "x" * 129}, "give 1 to 128 characters"),
            ({**UNSAFE, "feature": "a\x00"}, "none of them NUL"),
        ],
        "heads.weak_suffices": [
            ({**WEAK, "weak_suffices": {"arm": "z", "at_least": 1}}, "is none of"),
        ],
        "heads.parent": [({**DOMAIN_HEAD, "parent": "topic"}, "give a binary head")],
        "heads.share": [({**DOMAIN_HEAD, "share": 0.95}, "out of range")],
        "heads.max_labels": [
            ({**DOMAIN_HEAD, "max_labels": 100_000, "size": 1_024}, "at most"),
            ({**DOMAIN_HEAD, "max_labels": 2_857, "min_labels": 1_000}, "of each class take 2,858"),
        ],
        "features": [
            ({**DOMAIN_HEAD, "classes": ["prose", "law"]}, "give it kind category with values"),
        ],
    }
    for field, rows in cases.items():
        for declared, remedy in rows:
            said = refused(at, declared)
            assert said.startswith(f"{field}:"), said
            assert remedy in said
    assert refused(at, DOMAIN_HEAD, DOMAIN_HEAD).startswith("heads:")
    guard = {"head": "unsafe", "at_least": 0.8, "tag": "safe"}
    assert "guards.head" in refused(at, DOMAIN_HEAD, guards=[{**guard, "head": "topic"}])
    assert "no arm in service has the tag" in refused(at, UNSAFE, guards=[{**guard, "tag": "x"}])
    assert "guards.at_least" in refused(at, UNSAFE, guards=[{**guard, "at_least": 0}])
    sizes = {**DOMAIN_HEAD, "name": "other", "size": 4}
    assert "8 numbers elsewhere" in refused(at, DOMAIN_HEAD, sizes)
    number = [{"name": "topic.maths", "kind": "category", "values": ["maths"]}]
    assert "give it kind number" in refused(at, DOMAIN_HEAD, features=number)


def test_a_head_learns_on_from_its_version_before(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(900, seed=20, noise=2.5)
    (first,) = at.step()
    at.teach(300, seed=21, noise=2.5)
    (second,) = at.step()
    assert (first.numbers["continued"], second.numbers["continued"]) == (None, 1)
    assert second.labels == 1_200
    assert sum(second.numbers["trained"].values()) == 840
    assert evaluate(load(second), FRESH, LABELS).log_loss < 0.5 * np.log(2)
    # Only the newest version keeps what it learnt on from.
    with engine.begin() as connection:
        kept = [stored.find_learnt(connection, at.policy_id, "topic", n) for n in (1, 2)]
    assert kept == [None, second.learnt]
    assert second.learnt is not None


def test_a_label_that_is_changed_after_it_was_learnt_has_the_head_begin_anew(
    engine: sa.Engine,
) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(900, seed=20)
    at.step()
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE feedback SET value = to_jsonb('law'::text) WHERE feedback_id = "
                "(SELECT feedback_id FROM feedback ORDER BY decision_id OFFSET 100 LIMIT 1)"
            )
        )
    at.teach(300, seed=21)
    (second,) = at.step()
    assert second.numbers["continued"] is None
    assert second.labels == 1_199


def test_the_same_labels_at_the_same_looks_give_the_same_head(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    made = []
    for seed, count in ((20, 900), (21, 300)):
        at.teach(count, seed=seed)
        made += at.step()
    as_then = (
        "UPDATE decisions SET mode = CASE WHEN decision_id > :to THEN 'shadow' ELSE 'policy' END"
    )
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM heads"))
    for before in made:
        with engine.begin() as connection:
            connection.execute(sa.text(as_then), {"to": before.judged_to})
        (again,) = at.step()
        assert (again.digest, again.data_digest) == (before.digest, before.data_digest)
        assert again.learnt == before.learnt


def test_the_same_labels_give_the_same_head(engine: sa.Engine) -> None:
    at = HeadsWorld(engine, DOMAIN_HEAD)
    at.teach(200, seed=20)
    (made,) = at.step()
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM heads"))
    (again,) = at.step()
    same: list[StoredHead] = [replace(one, created_at=NOW) for one in (made, again)]
    assert same[0].digest == same[1].digest
    assert same[0].data_digest == same[1].data_digest
