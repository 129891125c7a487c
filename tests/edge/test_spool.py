import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import SpoolError
from edge.spool import MAX_LINE_BYTES, Kind, RefusedError, Spool

MAX = 64 * 1024


@pytest.fixture
def opened(tmp_path):
    held: list[Spool] = []

    def open_spool(**changes):
        for spool in held:
            spool.close()
        held[:] = [Spool(tmp_path, **{"max_bytes": MAX, **changes})]
        return held[0]

    yield open_spool
    for spool in held:
        spool.close()


def line(number: int, size: int = 0) -> bytes:
    return json.dumps({"decision_id": str(number), "fill": "x" * size}).encode()


def take(spool, max_lines=1000, max_bytes=2 * MAX_LINE_BYTES):
    """Read and remove all that waits."""
    found = []
    while batch := spool.peek(max_lines=max_lines, max_bytes=max_bytes):
        found += batch.lines
        spool.remove(batch)
    return found


def fill(spool, kind: Kind) -> int:
    """Append until the spool is full; returns how many lines it took."""
    for number in range(10**6):
        try:
            spool.append(kind, line(number, 1000))
        except RefusedError:
            return number
    raise AssertionError("the spool is never full")


def test_lines_come_back_in_order_with_their_kinds(opened):
    spool = opened()
    wrote: list[tuple[Kind, bytes]] = [
        ("decision" if n % 3 else "outcome", line(n)) for n in range(50)
    ]
    for kind, data in wrote:
        spool.append(kind, data)
    assert spool.depth == 50
    assert take(spool, max_lines=7) == wrote
    assert spool.depth == 0
    assert spool.peek(max_lines=1, max_bytes=MAX) is None


@given(st.lists(st.tuples(st.sampled_from(["write", "take", "open"]), st.integers(0, 3000))))
def test_whatever_the_restarts_each_line_comes_once_and_in_order(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, max_bytes=10**7, segment_bytes=4096)
    wrote: list[tuple[Kind, bytes]] = []
    found: list[tuple[Kind, bytes]] = []
    for number, (what, size) in enumerate(steps):
        if what == "write":
            spool.append("decision", line(number, size))
            wrote.append(("decision", line(number, size)))
        elif what == "take":
            batch = spool.peek(max_lines=1 + size % 5, max_bytes=2 * MAX_LINE_BYTES)
            if batch is not None:
                found += batch.lines
                spool.remove(batch)
        else:
            spool.close()
            spool = Spool(folder, max_bytes=10**7, segment_bytes=4096)
        assert spool.depth == len(wrote) - len(found)
    found += take(spool)
    spool.close()
    assert found == wrote


def test_what_was_not_removed_comes_again_after_a_restart(opened):
    spool = opened()
    for number in range(10):
        spool.append("decision", line(number))
    spool.remove(spool.peek(max_lines=4, max_bytes=MAX))
    spool.peek(max_lines=4, max_bytes=MAX)
    spool = opened()
    assert spool.depth == 6
    assert [data for _, data in take(spool)] == [line(n) for n in range(4, 10)]


def test_a_line_cut_short_by_a_crash_is_discarded_and_the_rest_is_kept(opened, tmp_path):
    spool = opened()
    spool.append("decision", line(1))
    segment = next(tmp_path.glob("*.ndjson"))
    with segment.open("ab") as file:
        file.write(b'{"decision":{"decision_id":"2"')
    spool = opened()
    spool.append("decision", line(3))
    assert [data for _, data in take(spool)] == [line(1), line(3)]


@pytest.mark.parametrize("cursor", [b"", b"{", b'{"segment": 1}', b'{"segment":1,"offset":"x"}'])
def test_a_damaged_cursor_uploads_again_rather_than_loses(opened, tmp_path, cursor):
    spool = opened()
    for number in range(3):
        spool.append("decision", line(number))
    spool.remove(spool.peek(max_lines=2, max_bytes=MAX))
    (tmp_path / "cursor.json").write_bytes(cursor)
    assert len(take(opened())) == 3


def test_zeros_that_a_power_cut_left_are_counted_and_passed_over(opened, tmp_path):
    spool = opened()
    spool.append("decision", line(1))
    segment = next(tmp_path.glob("*.ndjson"))
    with segment.open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    spool = opened()
    spool.append("decision", line(2))
    batch = spool.peek(max_lines=10, max_bytes=MAX)
    assert (batch.damaged, [data for _, data in batch.lines]) == (1, [line(1)])
    assert [data for _, data in take(spool)] == [line(1), line(2)]


def test_a_full_spool_refuses_new_lines_and_keeps_the_old(opened):
    spool = opened()
    kept = fill(spool, "decision")
    with pytest.raises(RefusedError, match="spool_full"):
        spool.append("decision", line(0, 1000))
    assert spool.size_bytes <= MAX * 15 // 16
    # The outcomes of the decisions that were taken still find room.
    spool.append("outcome", line(0, 1000))
    fill(spool, "outcome")
    assert spool.size_bytes <= MAX
    found = take(spool)
    assert [data for kind, data in found if kind == "decision"] == [
        line(n, 1000) for n in range(kept)
    ]
    spool.append("decision", line(1, 1000))


def test_a_line_past_the_limit_is_refused(opened):
    with pytest.raises(RefusedError, match="line_too_long"):
        opened(max_bytes=10**8).append("decision", line(1, MAX_LINE_BYTES))


def test_uploaded_segments_leave_the_disk(opened, tmp_path):
    spool = opened()
    for _ in range(20):
        for number in range(30):
            spool.append("decision", line(number, 500))
        take(spool)
    assert len(list(tmp_path.glob("*.ndjson"))) <= 2


def test_a_disk_that_refuses_leaves_no_half_line(opened, monkeypatch):
    spool = opened()
    spool.append("decision", line(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    with pytest.raises(RefusedError, match="disk"):
        spool.append("decision", line(2))
    monkeypatch.undo()
    spool.append("decision", line(3))
    assert [data for _, data in take(spool)] == [line(1), line(3)]


def test_two_edges_cannot_share_a_folder(opened, tmp_path):
    opened()
    with pytest.raises(SpoolError, match="in use by another edge"):
        Spool(tmp_path, max_bytes=MAX)


def segments(folder):
    return sorted(folder.glob("*.ndjson"))


def test_a_full_disk_heals_though_the_cursor_cannot_be_written(opened, tmp_path):
    spool = opened()
    wrote = fill(spool, "decision")
    assert len(segments(tmp_path)) > 2
    blocked = tmp_path / "cursor.json.new"  # a folder takes no bytes, as a full disk takes none
    blocked.mkdir()
    assert len(take(spool)) == wrote
    assert len(segments(tmp_path)) == 1
    assert fill(spool, "decision") > 0
    blocked.rmdir()
    take(spool)
    assert take(opened()) == []


def test_a_segment_that_cannot_be_deleted_is_tried_again_and_stops_nothing(opened, tmp_path):
    spool = opened()
    wrote = fill(spool, "decision")
    first = segments(tmp_path)[0]
    batch = spool.peek(max_lines=1000, max_bytes=2 * MAX_LINE_BYTES)
    first.unlink()
    first.mkdir()  # which is deleted as no file is
    spool.remove(batch)
    assert segments(tmp_path)[0] == first
    first.rmdir()
    first.touch()
    assert len(batch.lines) + len(take(spool)) == wrote
    assert not first.exists()


def test_a_line_that_cannot_be_set_aside_does_not_stop_the_others(opened, tmp_path):
    spool = opened()
    (tmp_path / "refused.log").mkdir()
    spool.append("decision", line(1))
    spool.set_aside("decision", line(1))
    assert take(spool) == [("decision", line(1))]


@pytest.mark.parametrize("which", [0, -1], ids=["the oldest", "the one being written"])
def test_a_segment_removed_by_hand_counts_as_damaged_and_the_rest_goes_on(opened, tmp_path, which):
    spool = opened(max_bytes=MAX)
    wrote = fill(spool, "decision")
    gone = segments(tmp_path)[which]
    lost = gone.read_bytes().count(b"\n")
    gone.unlink()
    found, damaged = [], 0
    while batch := spool.peek(max_lines=1000, max_bytes=2 * MAX_LINE_BYTES):
        damaged += batch.damaged
        found += batch.lines
        spool.remove(batch)
    assert (len(found), damaged, spool.depth) == (wrote - lost, lost, 0)
    spool.append("decision", line(7))
    assert take(spool) == [("decision", line(7))]


def test_all_segments_removed_by_hand_are_counted_once(opened, tmp_path):
    spool = opened()
    wrote = fill(spool, "decision")
    for path in segments(tmp_path):
        path.unlink()
    damaged = 0
    while batch := spool.peek(max_lines=1000, max_bytes=2 * MAX_LINE_BYTES):
        damaged += batch.damaged
        spool.remove(batch)
    assert (damaged, spool.depth) == (wrote, 0)


def test_a_sync_that_failed_is_done_again_for_every_segment(opened, tmp_path, monkeypatch):
    spool = opened()
    fill(spool, "decision")
    fsync, synced = os.fsync, set()

    def refuse(_):
        raise OSError("the disk refuses")

    def record(fd):
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="refuses"):
        spool.sync()
    monkeypatch.setattr(os, "fsync", record)
    spool.sync()
    assert {path.stat().st_ino for path in segments(tmp_path)} < synced
    synced.clear()
    spool.sync()
    assert synced == set()
