"""Tools of an agent, the file by which an edge ranks them, and requests that offer them."""

from pathlib import Path
from typing import Any

import numpy as np

from kernels.models import encoder_of
from kernels.signals.encoder import CAP
from kernels.signals.opening import open_parts
from kernels.tools import Outcomes, refine
from kernels.tools_file import ToolsFile, write
from kernels.tools_ranking import unit

DESCRIPTIONS = {
    "weather": "Tells the weather forecast of a place: rain, snow, wind and temperature.",
    "stocks": "Prices of shares and funds on the stock exchange.",
    "recipes": "Finds recipes for cooking a meal from given ingredients.",
    "trains": "Timetables and tickets of trains between cities.",
    "translate": "Translates a text from one language into another.",
    "music": "Plays songs and albums, and makes playlists.",
    "calendar": "Adds, moves and deletes appointments in a calendar.",
    "chess": "Analyses positions of the board game chess and suggests a move.",
    "doctors": "Books an appointment with a doctor or a dentist nearby.",
    "parcels": "Tracks where a parcel is and when it will be delivered.",
}
RAIN = "Will it rain or snow in Oslo tomorrow?"
SHARES = "What do shares of Equinor cost on the stock exchange today?"
FAKE = "fake:01"


def drawn(
    names: tuple[str, ...], *, seed: int = 0, size: int = 8, encoder: str = FAKE
) -> ToolsFile:
    """Tools with random vectors, for what never ranks."""
    vectors = unit(np.random.default_rng(seed).normal(size=(len(names), size)))
    none = np.zeros(0, np.int64)
    return ToolsFile(names, encoder, refine(vectors, Outcomes(vectors, none, none, none == 1)))


def described(models: Path, path: Path, descriptions: dict[str, str]) -> Path:
    """A file of tools as their descriptions have them."""
    parts = open_parts(models)
    ids = [parts.tokens.framed(parts.tokens.ids(text), CAP) for text in descriptions.values()]
    vectors = parts.encoder.embed_all(ids).astype(np.float32)
    none = np.zeros(0, np.int64)
    refined = refine(vectors, Outcomes(vectors, none, none, none == 1))
    write(path, ToolsFile(tuple(descriptions), encoder_of(models), refined))
    return path


def tool(name: str) -> dict[str, Any]:
    """As a request offers it."""
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def asking(text: str = RAIN, *names: str, **more: Any) -> dict[str, Any]:
    """A chat that offers these tools, or all that the file knows."""
    offered = [tool(name) for name in names or DESCRIPTIONS]
    messages = [{"role": "user", "content": text}]
    return {"model": "route/chat", "messages": messages, "tools": offered, **more}
