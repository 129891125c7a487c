"""The file of refined tools that an edge ranks by: read at its start, and again when it changes.

What cannot be used is refused, counted and said once, and the last good tools go on serving.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import structlog

from edge.errors import ToolsError
from edge.metrics import Metrics
from kernels.tools_file import ToolsFile, ToolsFileError, read

MIN_LOOK_S = 0.5
log = structlog.get_logger()


class OtherEncoderError(ToolsFileError):
    """A file's vectors are of another encoder than the edge's."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What is served; ``index`` gives each name's row."""

    file: ToolsFile
    index: dict[str, int]

    @classmethod
    def of(cls, file: ToolsFile) -> "Tools":
        """The tools of a file."""
        return cls(file, {name: row for row, name in enumerate(file.names)})


class Toolbox:
    """Keeps the tools current."""

    def __init__(
        self, path: Path | None, encoder: str | None, metrics: Metrics, *, look_s: float
    ) -> None:
        """``encoder`` is the edge's own, None without models; ``look_s`` lies between looks."""
        self._path = path
        self._encoder = encoder
        self._metrics = metrics
        self._look_s = max(look_s, MIN_LOOK_S)
        self._seen: tuple[int, ...] | None = None
        self.tools: Tools | None = None

    def boot(self) -> None:
        """Read the file for the first time.

        One of another encoder is what an upgrade leaves behind: it is refused like any other, and
        the edge starts without tools.

        Raises:
            ToolsError: There is none, or it is damaged.
        """
        if self._path is None:
            return
        if self._encoder is None:
            log.warning("tools.no_models", remedy="set POINTSMAN_EDGE_MODELS, or no tool is ranked")
        try:
            self._seen = _stamp(self._path)
            self._take(self._path)
        except OtherEncoderError as error:
            self._refuse(error)
        except (ToolsFileError, OSError) as error:
            raise ToolsError(f"POINTSMAN_EDGE_TOOLS_FILE={self._path}: {error}") from error

    async def run(self) -> Never:
        """Look for as long as the edge lives."""
        while True:
            await asyncio.sleep(self._look_s)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Read the file again where it has changed since it was last read or refused."""
        if self._path is None:
            return
        try:
            stamp = _stamp(self._path)
        except OSError as error:
            stamp = ()
            if self._seen != stamp:
                self._refuse(error)
        else:
            if self._seen != stamp:
                try:
                    self._take(self._path)
                except (ToolsFileError, OSError) as error:
                    self._refuse(error)
        self._seen = stamp

    def _take(self, path: Path) -> None:
        file = read(path)
        if self._encoder is not None and file.encoder != self._encoder:
            raise OtherEncoderError(
                f"its vectors are of the encoder {file.encoder}, and this edge runs "
                f"{self._encoder}: refine the tools again with these models"
            )
        self.tools = Tools.of(file)
        log.info("tools.active", tools=len(file.names), second_look=file.second is not None)

    def _refuse(self, error: Exception) -> None:
        self._metrics.tools_refused.inc()
        log.warning("tools.refused", path=str(self._path), reason=str(error))


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs between two states of a file; of none, nothing."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
