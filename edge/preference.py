"""The header by which a request says how much each part of the reward is to count for it."""

from edge.errors import invalid
from learners.preferences import MAX_FACTOR, in_context

HEADER = "x-route-preference"
MAX_PARTS = 16
MAX_NAME = 64
REMEDY = f"give <part>=<factor from 0 to {MAX_FACTOR:g}>, with commas between, as cost=0.7"


def read_preference(header: str | None) -> dict[str, float]:
    """The context's fields that hold what a header such as ``cost=0.7, latency=2`` asks for.

    Raises:
        ProblemError: It cannot be read (422).
    """
    if header is None or not header.strip():
        return {}
    parts = header.split(",")
    if len(parts) > MAX_PARTS:
        raise invalid(HEADER, f"{len(parts)} parts", f"name at most {MAX_PARTS}")
    found: dict[str, float] = {}
    for part in parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not 0 < len(name) <= MAX_NAME or not name.isprintable() or name in found:
            raise invalid(HEADER, header[:200], REMEDY)
        found[name] = _factor(value, header)
    return in_context(found)


def _factor(text: str, header: str) -> float:
    try:
        factor = float(text)
    except ValueError as error:
        raise invalid(HEADER, header[:200], REMEDY) from error
    if not 0 <= factor <= MAX_FACTOR:
        raise invalid(HEADER, header[:200], REMEDY)
    return factor
