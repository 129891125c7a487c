"""Decisions and outcomes on disk until the control plane has them.

Append-only segments of NDJSON, ``{"decision":…}`` or ``{"outcome":…}`` a line, and a cursor that
says how far they were uploaded.

* A line is handed to the kernel before ``append`` returns, so killing the edge loses none. The
  caller syncs at most every 100 ms, so a power cut loses at most that.
* The bytes are bounded. When full, *new* lines are refused, loudly: the log that is kept has no
  holes. Decisions are refused a sixteenth earlier, so the outcomes of those accepted still fit.
* A segment is deleted, and then the cursor moved, only after the upload. A crash before either
  uploads some lines again, and the control plane knows them by their id.
* Nothing but room is needed to recover from a full disk: uploaded segments go whatever else fails.
"""

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from edge.errors import EdgeError, SpoolError

Kind = Literal["decision", "outcome"]
KINDS: tuple[Kind, ...] = ("decision", "outcome")
MAX_LINE_BYTES = 1024 * 1024
SEGMENT_BYTES = 4 * 1024 * 1024
MAX_REFUSED_BYTES = 16 * 1024 * 1024
_PREFIX: dict[Kind, bytes] = {"decision": b'{"decision":', "outcome": b'{"outcome":'}
_CURSOR = "cursor.json"
log = structlog.get_logger()


class RefusedError(EdgeError):
    """A line was not taken; ``reason`` is spool_full, line_too_long or disk."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines from the head of the spool, and the position behind them."""

    lines: tuple[tuple[Kind, bytes], ...]
    damaged: int
    count: int
    segment: int
    offset: int


class Spool:
    """The spool in one folder, which it locks: two edges can not share it.

    All methods belong to one thread, but for ``sync``, which may wait in another.
    """

    def __init__(self, folder: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Lock the folder and take up what an earlier process left.

        Raises:
            SpoolError: Another process holds the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 8)
        self._lock = _lock(folder / "lock")
        self._fd: int | None = None
        self._retired: list[int] = []
        self._dirty = False
        self._cursor_failing = False
        self._syncing = threading.Lock()
        self._sizes = _recover(folder)
        self._current = max(self._sizes, default=0)
        self._segment, self._offset = self._read_cursor()
        self.depth = self._count()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, those of an uploaded part of the oldest segment included."""
        return sum(self._sizes.values())

    def append(self, kind: Kind, line: bytes) -> None:
        """Keep one JSON object.

        Raises:
            RefusedError: The line is too long, the spool is full, or the disk refuses it.
        """
        data = b"%b%b}\n" % (_PREFIX[kind], line)
        if len(data) > MAX_LINE_BYTES:
            raise RefusedError("line_too_long")
        limit = self._max_bytes if kind == "outcome" else self._max_bytes * 15 // 16
        if self.size_bytes + len(data) > limit:
            raise RefusedError("spool_full")
        try:
            self._write(data)
        except OSError as error:
            log.error("spool.write_failed", error=str(error))  # noqa: TRY400 — no traceback needed
            raise RefusedError("disk") from error
        self.depth += 1
        self._dirty = True  # only when the write is done, or a sync in between would clear it

    def _write(self, data: bytes) -> None:
        if self._fd is None or self._sizes[self._current] + len(data) > self._segment_bytes:
            self._roll()
        fd, size = self._fd, self._sizes[self._current]
        assert fd is not None  # noqa: S101 — _roll has opened one
        try:
            if os.write(fd, data) != len(data):
                raise OSError(f"only a part of {len(data)} bytes was written")
        except OSError:
            os.ftruncate(fd, size)
            raise
        self._sizes[self._current] = size + len(data)

    def _roll(self) -> None:
        number = self._current + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        fd = os.open(self._path(number), flags, 0o600)
        self._retire()
        self._fd, self._current, self._sizes[number] = fd, number, 0

    def _retire(self) -> None:
        """Leave the current segment to the next sync, so that its space can be freed."""
        if self._fd is not None:
            self._retired.append(self._fd)
            self._fd = None
            self._dirty = True

    def sync(self) -> None:
        """Force what was appended onto the disk; only here are file descriptors closed.

        Raises:
            OSError: The disk refuses; the next sync tries all of it again.
        """
        with self._syncing:
            if not self._dirty:
                return
            self._dirty = False
            try:
                self._sync_files()
            except OSError:
                self._dirty = True
                raise

    def _sync_files(self) -> None:
        while self._retired:
            os.fsync(self._retired[0])
            os.close(self._retired.pop(0))
        if self._fd is not None:
            os.fsync(self._fd)
        _sync_folder(self._folder)

    def peek(self, *, max_lines: int, max_bytes: int) -> Batch | None:
        """The oldest lines, all of one segment, or None; ``max_bytes`` must exceed any line."""
        while self._segment in self._sizes or self._advance():
            left = self._sizes[self._segment] - self._offset
            if left > 0:
                return self._read(min(left, max_bytes), max_lines)
            if not self._advance():
                return None
        return None

    def _read(self, length: int, max_lines: int) -> Batch:
        try:
            with self._path(self._segment).open("rb") as file:
                file.seek(self._offset)
                data = file.read(length)
        except FileNotFoundError:
            return self._missing()
        end = data.rfind(b"\n") + 1
        rows = data[:end].split(b"\n", max_lines)
        rest = rows.pop()
        # Without a line's end in reach nothing can be read here: a power cut left zeros.
        used = (end - len(rest)) or length
        found = tuple(line for line in map(_parse, rows) if line is not None)
        damaged = len(rows) - len(found) + (0 if end else 1)
        return Batch(found, damaged, len(rows), self._segment, self._offset + used)

    def _missing(self) -> Batch:
        """A segment was removed by hand: its lines count as damaged, and it is passed over."""
        if self._segment == self._current:
            self._retire()  # what is appended to a file without a name would be lost
        lost = max(0, self.depth - self._count())
        return Batch((), lost, lost, self._segment, self._sizes[self._segment])

    def remove(self, batch: Batch) -> None:
        """Forget a batch that the control plane has; never fails, however full the disk is."""
        self._segment, self._offset = batch.segment, batch.offset
        self.depth = max(0, self.depth - batch.count)
        if self._offset >= self._sizes.get(self._segment, 0):
            self._advance()
        self._write_cursor()

    def _advance(self) -> bool:
        """Go to the next segment, deleting those behind; False when there is none.

        They go before the cursor is written: on a full disk only that makes room for it.
        """
        later = [number for number in self._sizes if number > self._segment]
        if not later:
            return False
        self._segment, self._offset = min(later), 0
        for number in [n for n in self._sizes if n < self._segment]:
            try:
                self._path(number).unlink(missing_ok=True)
            except OSError as error:  # its bytes still count, and the next turn tries again
                log.warning("spool.segment_not_deleted", segment=number, error=str(error))
                continue
            del self._sizes[number]
        self._write_cursor()
        return True

    def set_aside(self, kind: Kind, line: bytes) -> None:
        """Keep a line that the control plane will not take, for a person to look at; bounded."""
        path = self._folder / "refused.log"
        data = b"%b%b}\n" % (_PREFIX[kind], line)
        try:
            with path.open("ab") as file:
                if file.tell() + len(data) <= MAX_REFUSED_BYTES:
                    file.write(data)
        except OSError as error:  # the lines behind it matter more
            log.warning("spool.not_set_aside", kind=kind, error=str(error))

    def close(self) -> None:
        """Sync and let go of the folder."""
        self._dirty = True
        try:
            self.sync()
        finally:
            self._retire()
            while self._retired:
                os.close(self._retired.pop())
            os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.ndjson"

    def _read_cursor(self) -> tuple[int, int]:
        first = min(self._sizes, default=1)
        try:
            row = json.loads((self._folder / _CURSOR).read_bytes())
            segment, offset = int(row["segment"]), int(row["offset"])
        except FileNotFoundError:
            return first, 0
        except (ValueError, KeyError, TypeError):
            log.warning("spool.cursor_damaged", remedy="all segments are uploaded again")
            return first, 0
        # A spool that was emptied by hand begins behind its old cursor.
        self._current = max(self._current, segment)
        return (segment, offset) if segment >= first else (first, 0)

    def _write_cursor(self) -> None:
        """Without it the next start uploads some lines again, which harms nobody."""
        path = self._folder / f"{_CURSOR}.new"
        try:
            path.write_text(json.dumps({"segment": self._segment, "offset": self._offset}))
            path.replace(self._folder / _CURSOR)
        except OSError as error:
            if not self._cursor_failing:
                log.warning("spool.cursor_not_written", error=str(error))
            self._cursor_failing = True
        else:
            self._cursor_failing = False

    def _count(self) -> int:
        lines = 0
        for number in sorted(n for n in self._sizes if n >= self._segment):
            try:
                with self._path(number).open("rb") as file:
                    file.seek(self._offset if number == self._segment else 0)
                    while chunk := file.read(SEGMENT_BYTES):
                        lines += chunk.count(b"\n")
            except FileNotFoundError:
                continue
        return lines


def _parse(row: bytes) -> tuple[Kind, bytes] | None:
    for kind in KINDS:
        if row.startswith(_PREFIX[kind]) and row.endswith(b"}}"):
            return kind, row[len(_PREFIX[kind]) : -1]
    return None


def _recover(folder: Path) -> dict[int, int]:
    """Sizes of the segments; a line that a crash cut short is discarded."""
    sizes = {}
    for path in sorted(folder.glob("*.ndjson")):
        sizes[int(path.stem)] = _cut(path)
    return sizes


def _cut(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(max(0, size - MAX_LINE_BYTES))
        tail = file.read()
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        if whole < size:
            log.warning("spool.partial_line_discarded", segment=path.name, bytes=size - whole)
            file.truncate(whole)
    return whole


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise SpoolError(
            f"{path.parent} is in use by another edge: give each its own POINTSMAN_EDGE_DATA_DIR"
        ) from error
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
