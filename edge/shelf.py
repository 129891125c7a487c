"""The last good bundle of each policy on disk, and the highest serial ever believed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    """A sealed bundle as it lies on disk, with the ETag that it came with."""

    data: bytes
    etag: str | None


class Shelf:
    """One folder: ``<policy>.bundle`` and ``<policy>.json`` with the ETag and the serial."""

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def keep(self, policy: str, data: bytes, *, etag: str | None, serial: int) -> None:
        """Put a good bundle in the place of the one before; each file is replaced whole.

        The serial is written last: a crash between the two leaves a newer bundle with an older
        mark, and both are good.
        """
        self._replace(f"{policy}.bundle", data)
        self._replace(f"{policy}.json", json.dumps({"serial": serial, "etag": etag}).encode())

    def bundle(self, policy: str) -> Kept | None:
        """The last good bundle, if there is one."""
        try:
            data = (self._folder / f"{policy}.bundle").read_bytes()
        except FileNotFoundError:
            return None
        etag = self._mark(policy).get("etag")
        return Kept(data, etag if isinstance(etag, str) else None)

    def serial(self, policy: str) -> int:
        """The highest serial that was believed, 0 before the first."""
        serial = self._mark(policy).get("serial")
        return serial if isinstance(serial, int) else 0

    def _mark(self, policy: str) -> dict[str, object]:
        try:
            row = json.loads((self._folder / f"{policy}.json").read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("shelf.mark_damaged", policy=policy)
            return {}
        return row if isinstance(row, dict) else {}

    def _replace(self, name: str, data: bytes) -> None:
        path = self._folder / f".{name}.new"
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.replace(self._folder / name)
        fd = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
