"""COPY a batch into its stage: the text format written here, since adapting each value is slow."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

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
    """One row in COPY's text format."""
    return "\t".join(map(_field, row)) + "\n"


def _field(value: Any) -> str:
    match value:
        case None:
            return "\\N"
        case str():
            return value.translate(_ESCAPES)
        case UUID() | int() | float():
            return str(value)
        case datetime():
            return value.isoformat()
        case dict():
            return msgspec.json.encode(value).decode().translate(_ESCAPES)
        case list():
            return f"{{{','.join(map(_item, value))}}}".translate(_ESCAPES)
    raise TypeError(f"{type(value).__name__} {value!r} has no form in COPY: add it here")


def _item(value: str | float) -> str:
    return f'"{value.translate(_QUOTED)}"' if isinstance(value, str) else str(value)
