"""Files of records: a JSON array, JSON lines, or CSV, each plain or gzipped."""

import csv
import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from feedback.imports.rows import Account, Entry

MAX_RECORDS = 5_000_000
MAX_JSON_BYTES = 512 * 2**20
"""An array is read whole; lines are not."""
_FIELD = 2**24


class ImportFileError(ValueError):
    """A file cannot be read; the message names it."""


def records(paths: Iterable[Path], account: Account) -> Iterator[Entry]:
    """The records of all files, in their order; a line that is no record is put on the account.

    Raises:
        ImportFileError: A file holds no text in UTF-8, is damaged, or has too many records.
        OSError: It cannot be opened.
    """
    number = 0
    for path in paths:
        for entry in _of_file(path, account):
            number += 1
            if number > MAX_RECORDS:
                raise ImportFileError(f"{path}: more than {MAX_RECORDS:,} records: give fewer")
            yield entry


def _of_file(path: Path, account: Account) -> Iterator[Entry]:
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            if kind == "csv":
                yield from _csv(stream, account)
            elif kind == "json":
                yield from _array(stream, path, account)
            else:
                yield from _lines(stream, account)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ImportFileError(f"{path}: cannot be read: {error}") from error


def _csv(stream: Iterable[str], account: Account) -> Iterator[Entry]:
    csv.field_size_limit(min(_FIELD, sys.maxsize))  # prompts are longer than what csv allows
    for row in csv.DictReader(stream, strict=True):
        if None in row:
            account.read += 1
            account.skip("line", "has more fields than the header")
            continue
        yield row


def _array(stream: TextIO, path: Path, account: Account) -> Iterator[Entry]:
    text = stream.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ImportFileError(f"{path}: an array of more than 512 MiB: give it as JSON lines")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        yield from _lines(text.splitlines(), account)  # JSON lines, by another name
        return
    if isinstance(found, dict):
        found = found.get("data", [found])
    yield from _objects(found if isinstance(found, list) else [found], account)


def _lines(stream: Iterable[str], account: Account) -> Iterator[Entry]:
    for line in stream:
        if not line.strip():
            continue
        try:
            yield from _objects([json.loads(line)], account)
        except (ValueError, RecursionError):
            account.read += 1
            account.skip("line", "is not JSON")


def _objects(found: list[Any], account: Account) -> Iterator[Entry]:
    for one in found:
        if isinstance(one, dict):
            yield one
        else:
            account.read += 1
            account.skip("line", "is no JSON object")
