"""COPY a batch into its stage: the text format written here, since adapting each value is slow."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def stage(
    connection: sa.Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> str:
    """Fill ``stage_<table>``, which is emptied by the next call and by the commit; its name."""
    name = f"stage_{table}"
    connection.execute(
        sa.text(f"CREATE TEMP TABLE IF NOT EXISTS {name} (LIKE {table}) ON COMMIT DELETE ROWS")
    )
    connection.execute(sa.text(f"TRUNCATE {name}"))
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    names = ", ".join(f'"{column}"' for column in columns)
    with driver.cursor().copy(f"COPY {name} ({names}) FROM STDIN") as copy:
        copy.write("".join(map(line, rows)))
    return name


def line(row: Sequence[Any]) -> str:
    """One row in COPY's text format.

    Raises:
        TypeError: A value's type has no form here.
    """
    try:
        return "\t".join([_FORMS[type(value)](value) for value in row]) + "\n"
    except KeyError as error:
        odd = next(value for value in row if type(value) not in _FORMS)
        raise TypeError(f"{type(odd).__name__} {odd!r} has no form in COPY: add it here") from error


def _text(value: str) -> str:
    return value.translate(_ESCAPES) if _SPECIAL.search(value) else value


def _json(value: dict[str, Any]) -> str:
    return _text(msgspec.json.encode(value).decode())


def _array(value: list[Any]) -> str:
    if value and isinstance(value[0], str):
        return _texts(tuple(value))
    return f"{{{str(value)[1:-1]}}}"


@lru_cache(1_024)  # one policy's decisions name the same arms again and again
def _texts(value: tuple[str, ...]) -> str:
    quoted = ",".join(f'"{item.translate(_QUOTED)}"' for item in value)
    return f"{{{quoted}}}".translate(_ESCAPES)


_FORMS: Mapping[type, Callable[[Any], str]] = {
    NoneType: lambda _: "\\N",
    bool: str,
    int: str,
    float: str,
    str: _text,
    UUID: lambda value: f"{value.int:032x}",
    datetime: datetime.isoformat,
    dict: _json,
    list: _array,
}
