from dataclasses import replace
from uuid import UUID

import sqlalchemy as sa

from storage.feedback import (
    Earlier,
    StoredFeedback,
    add_feedback,
    earlier_feedback,
    retract_feedback,
)
from tests.ground import T0, Ground, later, new_id


def feedback(ground: Ground, decision_id: UUID, second: float, value: object) -> StoredFeedback:
    return StoredFeedback(
        feedback_id=new_id(later(second)),
        project_id=ground.project_id,
        decision_id=decision_id,
        episode_id=None,
        metric="good",
        value=value,
        number=float(bool(value)),
        source="user",
        occurred_at=later(second),
        tags={},
        received_at=later(second),
    )


def test_the_standing_word_is_the_latest_that_was_not_taken_back(ground: Ground):
    decision_id = new_id()
    first, second = (feedback(ground, decision_id, s, s == 1) for s in (1, 2))
    third = feedback(ground, decision_id, 3, value=True)
    standing = Earlier(second.feedback_id, value=False, occurred_at=later(2))
    with ground.engine.begin() as connection:
        assert earlier_feedback(connection, [third], set()) == {}
        add_feedback(connection, [second, first])
        assert earlier_feedback(connection, [third], set()) == {third.feedback_id: standing}
        assert retract_feedback(connection, ground.project_id, first.feedback_id, T0)
        assert earlier_feedback(connection, [third], set()) == {third.feedback_id: standing}
        assert retract_feedback(connection, ground.project_id, second.feedback_id, T0)
        assert earlier_feedback(connection, [third], set()) == {}


def test_the_very_same_word_is_found_even_once_it_was_taken_back(ground: Ground):
    decision_id = new_id()
    said = [feedback(ground, decision_id, second, value=True) for second in (1, 2)]
    again = replace(said[0], feedback_id=new_id(later(9)))
    other = replace(again, feedback_id=new_id(later(9)), value=False)
    with ground.engine.begin() as connection:
        add_feedback(connection, said)
        retract_feedback(connection, ground.project_id, said[0].feedback_id, T0)
        asked = [again, other]
        found = earlier_feedback(connection, asked, {row.feedback_id for row in asked})
    assert found == {again.feedback_id: Earlier(said[0].feedback_id, True, later(1))}


def test_decisions_and_episodes_are_asked_for_together(ground: Ground):
    of_decision = feedback(ground, new_id(), 1, value=True)
    of_episode = replace(
        of_decision, feedback_id=new_id(later(1)), decision_id=None, episode_id="run-1"
    )
    asked = [replace(row, feedback_id=new_id(later(2))) for row in (of_decision, of_episode)]
    with ground.engine.begin() as connection:
        add_feedback(connection, [of_decision, of_episode])
        found = earlier_feedback(connection, asked, set())
    assert [found[row.feedback_id].feedback_id for row in asked] == [
        of_decision.feedback_id,
        of_episode.feedback_id,
    ]


def test_a_retraction_keeps_the_time_of_the_first_one(ground: Ground):
    said = feedback(ground, new_id(), 1, value=True)
    with ground.engine.begin() as connection:
        add_feedback(connection, [said])
        for second in (5, 9):
            retract_feedback(connection, ground.project_id, said.feedback_id, later(second))
        found = connection.scalar(
            sa.text("SELECT retracted_at FROM feedback WHERE feedback_id = :i"),
            {"i": said.feedback_id},
        )
    assert found == later(5)
