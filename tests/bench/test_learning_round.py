import pytest
import sqlalchemy as sa

from bench.learning_round import FAMILY, Spent, freeze, from_log, taken, whole_round
from bench.stored_log import FEATURES, StoredLog, fill
from controlplane.config import GateConfig, LearnerConfig, PolicyConfig

ROWS = 400


@pytest.fixture
def place(engine: sa.Engine) -> StoredLog:
    config = PolicyConfig(
        features=FEATURES,
        learners=(LearnerConfig("per_domain"),),
        max_interactions=ROWS,
        gate=GateConfig(min_interactions=100, min_judged=100),
    )
    return fill(engine, ROWS, config)


def test_a_made_log_is_read_learnt_and_judged_as_any_other(place: StoredLog):
    found = from_log(place, turns=1)
    named = {one.measure: one for one in found}
    for name in FAMILY:
        assert f"learn and freeze: {name} (400 interactions, 16 arms)" in named
        assert named[f"freeze: {name} (16 arms, 87 columns, 2 parts)"].goal == "<= 50 ms"
    assert whole_round(place).goal == "<= 0.024 s"


def test_a_shorter_log_has_its_share_of_the_time_that_a_million_may_take():
    spent = Spent(wall_s=3.5, own_s=1.75)
    assert taken("all", spent, 1_000_000, 60.0).holds is True
    found = taken("all", spent, 50_000, 60.0)
    assert (found.goal, found.holds, found.ratio) == ("<= 3 s", False, 2.0)
    assert taken("all", spent, 50_000).holds is None


def test_a_freeze_is_beside_what_this_process_computed():
    found = freeze("nothing", lambda: sum(range(1_000)), 3)
    assert (found.unit, found.goal) == ("ms", "<= 50 ms")
    assert found.ratio is not None
