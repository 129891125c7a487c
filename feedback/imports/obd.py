"""Impressions of the Open Bandit Dataset (Saito, Aihara, Matsutani & Narita 2021).

A policy's CSV of one campaign, such as ``random/all/all.csv``: ``timestamp``, ``item_id``,
``position``, ``click``, ``propensity_score`` (``action_prob`` in some exports), user features as
hashes and affinities as numbers. Items are the arms, by their ``item_id``. Impressions have no id:
equal lines are told apart by how often they came.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from feedback.imports.rows import (
    MISSING,
    UNREADABLE,
    Account,
    Entry,
    Row,
    number_of,
    text_of,
    time_of,
)
from learners.features import canonical_json

CLICK = "click"
AFFINITY = "affinity"
_PROPENSITIES = ("propensity_score", "action_prob")
_USER, _LIKES = "user_feature_", "user-item_affinity_"
_KNOWN = ("timestamp", "item_id", "position", CLICK, *_PROPENSITIES, "")
DIGITS = 32


def read(entries: Iterable[Entry], account: Account) -> Iterator[Row]:
    """The rows of a campaign's impressions."""
    seen: Counter[str] = Counter()
    for entry in entries:
        account.read += 1
        item = text_of(entry, "item_id")
        if item is None:
            account.skip("item_id", MISSING)
            continue
        digest = hashlib.sha256(canonical_json(dict(entry))).hexdigest()[:DIGITS]
        seen[digest] += 1
        yield _row(entry, item, f"{digest}-{seen[digest]}", account)


def _row(entry: Entry, item: str, key: str, account: Account) -> Row:
    features = [name for name in entry if name.startswith((_USER, _LIKES))]
    account.lose_unknown(entry, (*_KNOWN, *features))
    said: dict[str, Any] = {}
    click = number_of(entry.get(CLICK))
    if click in {0.0, 1.0}:
        said[CLICK] = click == 1.0
    else:
        account.lose(CLICK, MISSING if text_of(entry, CLICK) is None else UNREADABLE)
    return Row(
        key=key,
        at=time_of(entry.get("timestamp")),
        models=(item,),
        context=_context(entry),
        propensity=_propensity(entry, account),
        said=said,
        query=key,
    )


def _context(entry: Entry) -> dict[str, Any]:
    """Position and user features as categories, the affinities as one vector."""
    context: dict[str, Any] = {
        name: value
        for name in ("position", *(name for name in entry if name.startswith(_USER)))
        if (value := text_of(entry, name)) is not None
    }
    likes = [number_of(value) for name, value in entry.items() if name.startswith(_LIKES)]
    if likes and all(value is not None for value in likes):
        context[AFFINITY] = likes
    return context


def _propensity(entry: Entry, account: Account) -> float | None:
    name = next((name for name in _PROPENSITIES if text_of(entry, name) is not None), None)
    if name is None:
        account.lose("propensity", "is not logged: these rows serve the direct method only")
        return None
    found = number_of(entry[name])
    if found is None or not 0 < found <= 1:
        account.lose("propensity", "is not in (0, 1]: these rows serve the direct method only")
        return None
    return found
