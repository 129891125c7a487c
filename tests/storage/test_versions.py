import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from storage import releases, versions
from storage.releases import StoredExperiment
from storage.versions import StoredBundle, StoredRound, StoredVerdict, StoredVersion
from tests.ground import T0, Ground, later, lay, new_id


def version(ground: Ground, number: int, **fields: Any) -> StoredVersion:
    given: dict[str, Any] = {
        "policy_id": ground.policy_id,
        "number": number,
        "state": "candidate",
        "learner": "linucb",
        "config": {"params": {"alpha": 0.5}},
        "seed": 7,
        "parent": None,
        "data_from": 0,
        "data_to": 100,
        "data_digest": "d" * 64,
        "digest": "e" * 64,
        "scorer": {"kind": "linear"},
        "tensors": bytes(range(256)),
        "snapshot": None,
        "created_at": T0,
    }
    return StoredVersion(**given | fields)


def bundle(ground: Ground, serial: int, number: int = 1) -> StoredBundle:
    return StoredBundle(
        policy_id=ground.policy_id,
        serial=serial,
        version=number,
        digest=f"{serial:064d}",
        body=b"sealed",
        reason="test",
        issued_at=later(serial),
        expires_at=later(serial + 100),
    )


def add(ground: Ground, *numbers: int, **fields: Any) -> None:
    with ground.engine.begin() as connection:
        for number in numbers:
            versions.add_version(connection, version(ground, number, **fields))


def publish(ground: Ground, *served: int) -> None:
    with ground.engine.begin() as connection:
        for number in served:
            serial = versions.next_serial(connection, ground.policy_id)
            versions.add_bundle(connection, bundle(ground, serial, number))


def standing(ground: Ground) -> dict[int, str]:
    with ground.engine.connect() as connection:
        return {
            row["number"]: row["state"]
            for row in versions.list_versions(connection, ground.policy_id)
        }


def at_once(count: int, call: Callable[[], int]) -> list[int]:
    start = threading.Barrier(count)

    def one(_: int) -> int:
        start.wait()
        return call()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_a_version_comes_back_as_it_was_stored(ground: Ground):
    kept = version(ground, 3, parent=2, snapshot=b"\x00\xff", state="champion")
    with ground.engine.begin() as connection:
        versions.add_version(connection, kept)
        assert versions.find_version(connection, ground.policy_id, 3) == kept
        assert versions.find_version(connection, ground.policy_id, 4) is None


def test_a_version_is_stored_once_and_for_all(ground: Ground):
    add(ground, 1)
    with pytest.raises(sa.exc.IntegrityError):
        add(ground, 1, digest="f" * 64)


def test_versions_are_listed_newest_first_page_by_page_without_their_tensors(ground: Ground):
    add(ground, 1, 2, 3, 4)
    with ground.engine.connect() as connection:
        first = versions.list_versions(connection, ground.policy_id, limit=3)
        rest = versions.list_versions(connection, ground.policy_id, before=first[-1]["number"])
    assert [row["number"] for row in first + rest] == [4, 3, 2, 1]
    assert not {"tensors", "snapshot"} & set(first[0])


def test_version_numbers_are_dense_and_unique_at_once(ground: Ground):
    def train() -> int:
        with ground.engine.begin() as connection:
            versions.lock_policy(connection, ground.policy_id)
            number = versions.next_version(connection, ground.policy_id)
            versions.add_version(connection, version(ground, number))
            return number

    assert sorted(at_once(6, train)) == [1, 2, 3, 4, 5, 6]


def test_serials_rise_by_one_and_are_unique_at_once(ground: Ground):
    def serve() -> int:
        with ground.engine.begin() as connection:
            versions.lock_policy(connection, ground.policy_id)
            serial = versions.next_serial(connection, ground.policy_id)
            versions.add_bundle(connection, bundle(ground, serial))
            return serial

    assert sorted(at_once(6, serve)) == [1, 2, 3, 4, 5, 6]
    with ground.engine.connect() as connection:
        assert versions.newest_bundle(connection, ground.policy_id) == bundle(ground, 6)
        assert versions.newest_serials(connection)[ground.policy_id] == (6, f"{6:064d}")


def test_each_policy_counts_for_itself(ground: Ground):
    other = lay(ground.engine)
    add(ground, 1, 2)
    publish(ground, 1, 2, 1)
    with ground.engine.connect() as connection:
        assert versions.next_version(connection, other.policy_id) == 1
        assert versions.next_serial(connection, other.policy_id) == 1
        assert versions.newest_bundle(connection, other.policy_id) is None
        assert other.policy_id not in versions.newest_serials(connection)


def test_a_policy_that_does_not_exist_cannot_be_locked(ground: Ground):
    with ground.engine.begin() as connection, pytest.raises(sa.exc.NoResultFound):
        versions.lock_policy(connection, new_id())


def test_a_locked_policy_still_takes_decisions(ground: Ground):
    with ground.engine.begin() as connection:
        versions.lock_policy(connection, ground.policy_id)
        assert ground.decide(new_id()).accepted == 1


def test_retired_candidates_are_forgotten_except_the_newest_and_what_served(ground: Ground):
    add(ground, *range(1, 11))
    publish(ground, 2)
    with ground.engine.begin() as connection:
        versions.set_state(connection, ground.policy_id, [2], "retired")
        versions.set_state(connection, ground.policy_id, [3], "champion")
        versions.put_alias(connection, ground.policy_id, "shadow", 4, T0)
        versions.retire_candidates(connection, ground.policy_id, keep=3)
    found = standing(ground)
    assert list(found) == [10, 9, 8, 4, 3, 2]
    assert found[3] == "champion"
    assert {found[n] for n in (2, 4, 8, 9, 10)} == {"retired"}


def test_what_a_running_experiment_names_is_not_forgotten(ground: Ground):
    add(ground, *range(1, 11))
    variants = [{"name": "a", "share": 0.5, "version": None}, {"name": "b", "share": 0.5}]
    with ground.engine.begin() as connection:
        for number, ended in ((2, None), (3, T0)):
            spec = {"split": {"variants": [variants[0], {**variants[1], "version": number}]}}
            releases.add_experiment(
                connection,
                StoredExperiment(
                    new_id(), ground.policy_id, f"of {number}", spec, "running", {}, None, T0, ended
                ),
            )
        versions.retire_candidates(connection, ground.policy_id, keep=3)
    assert list(standing(ground)) == [10, 9, 8, 2]


def test_a_retired_candidate_keeps_its_snapshot_only_where_it_served(ground: Ground):
    with ground.engine.begin() as connection:
        for number in range(1, 6):
            versions.add_version(connection, version(ground, number, snapshot=b"state"))
    publish(ground, 1, 2)
    with ground.engine.begin() as connection:
        versions.set_state(connection, ground.policy_id, [1], "retired")
        versions.set_state(connection, ground.policy_id, [2], "champion")
        versions.put_alias(connection, ground.policy_id, "shadow", 3, T0)
        versions.retire_candidates(connection, ground.policy_id, keep=200)
        versions.add_version(connection, version(ground, 6, snapshot=b"state"))
        found = {
            number: versions.find_version(connection, ground.policy_id, number)
            for number in range(1, 7)
        }
    kept = {n: one.snapshot for n, one in found.items() if one is not None}
    assert kept == {1: b"state", 2: b"state", 3: b"state", 4: None, 5: None, 6: b"state"}
    assert all(one.tensors for one in found.values() if one is not None)


def test_old_bundles_lose_their_bytes_and_stay_in_the_history(ground: Ground):
    other = lay(ground.engine)
    publish(ground, 1, 2, 3, 4, 5)
    publish(other, 1, 2)
    with ground.engine.begin() as connection:
        newest = versions.newest_bundle(connection, ground.policy_id)
        versions.forget_bodies(connection, keep=2)
        assert versions.newest_bundle(connection, ground.policy_id) == newest
        history = versions.list_bundles(connection, ground.policy_id)
        bodies = connection.execute(
            sa.text(
                "SELECT policy_id, serial FROM bundles WHERE body IS NOT NULL "
                "AND policy_id IN (:ours, :other) ORDER BY serial DESC"
            ),
            {"ours": ground.policy_id, "other": other.policy_id},
        )
        assert [tuple(row) for row in bodies] == [
            (ground.policy_id, 5),
            (ground.policy_id, 4),
            (other.policy_id, 2),
            (other.policy_id, 1),
        ]
        with pytest.raises(ValueError, match="keep is 0"):
            versions.forget_bodies(connection, keep=0)
    assert [row["serial"] for row in history] == [5, 4, 3, 2, 1]


def test_what_is_forgotten_leaves_no_number_to_be_used_again(ground: Ground):
    add(ground, 1, 2, 3)
    with ground.engine.begin() as connection:
        versions.retire_candidates(connection, ground.policy_id, keep=1)
        assert versions.next_version(connection, ground.policy_id) == 4
        with pytest.raises(ValueError, match="keep is 0: give at least 1"):
            versions.retire_candidates(connection, ground.policy_id, keep=0)


def test_another_policys_candidates_are_left_alone(ground: Ground):
    other = lay(ground.engine)
    add(other, 1, 2, 3)
    with ground.engine.begin() as connection:
        versions.retire_candidates(connection, ground.policy_id, keep=1)
    assert standing(other) == {3: "candidate", 2: "candidate", 1: "candidate"}


def test_an_alias_counts_how_often_it_was_moved(ground: Ground):
    def move(number: int) -> int:
        with ground.engine.begin() as connection:
            return versions.put_alias(connection, ground.policy_id, "champion", number, T0)

    with ground.engine.connect() as connection:
        assert versions.find_alias(connection, ground.policy_id, "champion") is None
    assert [move(n) for n in (5, 6, 5)] == [1, 2, 3]
    with ground.engine.connect() as connection:
        assert versions.find_alias(connection, ground.policy_id, "champion") == (5, 3)
        assert versions.find_alias(connection, ground.policy_id, "shadow") is None


def test_each_move_of_an_alias_at_once_has_its_own_revision(ground: Ground):
    def move() -> int:
        with ground.engine.begin() as connection:
            return versions.put_alias(connection, ground.policy_id, "champion", 1, T0)

    assert sorted(at_once(6, move)) == [1, 2, 3, 4, 5, 6]


def test_bundles_are_listed_newest_first_without_their_bytes(ground: Ground):
    publish(ground, 1, 2, 1)
    with ground.engine.connect() as connection:
        rows = versions.list_bundles(connection, ground.policy_id, limit=2)
        history = versions.service_history(connection, ground.policy_id)
    assert [version for version, _ in history] == [1, 2, 1]
    assert [row["serial"] for row in rows] == [3, 2]
    assert "body" not in rows[0]


def test_a_bundle_is_past_its_half_life_exactly_then(ground: Ground):
    publish(ground, 1)  # issued at 1 s for 100 s

    def past(now: datetime) -> bool:
        with ground.engine.connect() as connection:
            return ground.policy_id in versions.past_half_life(connection, now)

    assert not past(later(51) - timedelta(microseconds=1))
    assert past(later(51))
    publish(ground, 1)
    assert not past(later(51)), "only the newest counts"


def test_verdicts_are_listed_newest_first_of_one_version_or_of_all(ground: Ground):
    verdicts = [
        StoredVerdict(
            id=new_id(later(second)),
            policy_id=ground.policy_id,
            version=second % 2,
            gate="release",
            passed=bool(second % 2),
            summary="why",
            numbers={"low": 0.1},
            checks=[{"name": "gain", "passed": True}],
            created_at=later(second),
        )
        for second in range(4)
    ]
    with ground.engine.begin() as connection:
        for verdict in verdicts:
            versions.add_verdict(connection, verdict)
        assert versions.list_verdicts(connection, ground.policy_id) == verdicts[::-1]
        of_one = versions.list_verdicts(connection, ground.policy_id, version=1, limit=1)
    assert of_one == [verdicts[3]]


def test_the_newest_round_is_found_for_one_policy_and_for_all(ground: Ground):
    rounds = [
        StoredRound(ground.policy_id, number, number * 10, number, {"n": number}, T0, later(1))
        for number in (1, 2)
    ]
    with ground.engine.begin() as connection:
        assert versions.newest_round(connection, ground.policy_id) is None
        for done in rounds:
            versions.add_round(connection, done)
        assert versions.newest_round(connection, ground.policy_id) == rounds[1]
        assert versions.newest_rounds(connection)[ground.policy_id] == rounds[1]
