"""From candidate to champion in steps, and back."""

import sqlalchemy as sa

from tests.controlplane.release_world import Way


def test_a_better_version_climbs_from_shadow_to_champion_with_a_verdict_at_each_step(
    engine: sa.Engine,
) -> None:
    way = Way(engine)
    release = way.start()
    assert (release.version, way.state_of(2), way.world.champion()[0]) == (2, "shadow", 1)
    assert way.world.bundle().lineup.shadows == (2,)
    way.pass_stage(800)
    assert way.state_of(2) == "canary"
    [split] = way.world.bundle().lineup.splits
    assert [(v.name, v.share, v.version) for v in split.variants] == [
        ("canary", 0.5, 2), ("control", 0.5, None),
    ]  # fmt: skip
    way.pass_stage(1_200)
    assert way.world.champion()[0] == 2
    assert way.world.bundle().lineup.empty
    assert way.newest().status == "watching"
    way.pass_stage(300)
    done = way.newest()
    assert (done.status, done.ended_at is not None, way.state_of(2)) == (
        "completed", True, "champion",
    )  # fmt: skip
    assert way.gates() == [
        ("release", True), ("shadow", True), ("canary 50 %", True), ("watch", True),
    ]  # fmt: skip
    assert way.look() is None


def test_a_canary_whose_arm_begins_to_fail_is_sent_back_within_a_few_dozen_failures(
    engine: sa.Engine,
) -> None:
    way = Way(engine, {"stages": [0.1, 1]})
    way.start()
    way.edge_says()
    way.serve(500, dict.fromkeys("abcd", 0.01))
    found = way.look()
    assert found is not None
    assert found.action == "stay", found.verdict.summary
    before = way.world.bundle().serial
    failures = 0
    for _ in range(40):
        way.serve(50, {**dict.fromkeys("abcd", 0.01), "a": 0.3})
        found = way.look()
        assert found is not None
        if found.action == "revert":
            break
    with engine.connect() as connection:
        failures = connection.exec_driver_sql(
            "SELECT count(*) FROM decisions d JOIN outcomes o USING (decision_id) "
            "WHERE d.variant = 'canary' AND (o.values->>'error')::float8 > 0"
        ).scalar_one()
    assert found is not None
    assert found.action == "revert", found.verdict.summary
    print("failures before the revert", failures)
    assert failures <= 36
    assert way.world.bundle().serial > before
    assert way.world.bundle().lineup.empty
    assert way.newest().status == "reverted"
    assert way.gates()[-1] == ("monitor", False)
    assert "sent back" in way.newest().reason
    assert way.state_of(2) == "retired"
