"""What compression costs whoever reads a long text's domain: the heads of the product, and a ridge.

A head learns short prompts, and is asked about long documents, of many prompts of one domain each.
What it reads of them is what the pipeline gives it. What it is held against is the best reading of
the full text that the same head has: the mean of its vectors over all the document, in windows of
what the encoder reads that begin anew with each prompt, as it is or of length 1, whichever is right
more often.

The compressor was tuned on rows of even numbers. Documents here are of odd ones, and heads learn
from rows of which no document is made. ± is half of a 95 % interval of the paired difference.
"""

import csv
import gzip
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import minilm, tables
from bench.kernels_heads import unwrapped
from bench.measure import Measure, main
from kernels.compress import compress
from kernels.signals import grams, personal, suspicion
from kernels.signals.encoder import CAP
from kernels.signals.opening import Parts, open_parts
from kernels.signals.pipeline import Budgets, Pipeline, evidence
from learners import head_fitting
from learners.heads import HeadModel

Matrix = NDArray[np.float64]
Vectors = dict[str, Matrix]
Heads = dict[str, HeadModel]
NAMES = ("static", "embedding", "both", "joint")
UNBOUND = frozenset({"joint"})
"""Vectors that are not for subjects: patterns of personal data add up with a text's length."""
TABLES = (("guard_domain", "text", "label"), ("mmlu_pro.queries", "query_text", "domain"))
LEARNT = 1_500
PER_DOMAIN = 100
"""Prompts of a domain that documents are made of."""
ALL = 1_000_000
"""Tokens of a prompt that the reference reads: all."""
CHARS_PER_TOKEN = 3.7
AT_LEISURE = Budgets(59.0, 59.0, 59.0)
GOAL = 2.0


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All rows, of each table and length; none where there are no tables."""
    place = tables.folder()
    if place is None:
        return []
    parts = open_parts(minilm.root())
    return [one for table in TABLES for one in _measure(_Domains(parts, place, table), quick=quick)]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, its tokens, the sum of its windows' embeddings, and its other vectors."""

    text: str
    ids: list[int]
    embeddings: Matrix
    windows: int
    static: Matrix
    evidence: Matrix


class _Domains:
    """A table's prompts, and the heads that have learnt some of them."""

    def __init__(self, parts: Parts, place: Path, table: tuple[str, str, str]) -> None:
        self.name, column, key = table
        self._parts = parts
        rows = [row for row in _rows(place, self.name) if row[key] != "ood"]
        self.classes = tuple(sorted({row[key] for row in rows}))
        order = np.random.default_rng(1).permutation(len(rows)).tolist()
        said = [unwrapped(rows[at][column]) for at in order]
        labels = np.array([self.classes.index(rows[at][key]) for at in order])
        self.heads, self.ridge = self._learn(said[:LEARNT], labels[:LEARNT])
        held: dict[int, list[_Prompt]] = defaultdict(list)
        learnt = set(said[:LEARNT])
        for at, text, label in zip(order, said, labels.tolist(), strict=True):
            if at % 2 == 1 and text not in learnt and len(held[label]) < PER_DOMAIN:
                held[label].append(self._prompt(text))
        self.held = held
        self._pipeline = Pipeline(
            tokens=parts.tokens,
            table=parts.table,
            encoder=parts.encoder,
            budgets=AT_LEISURE,
            wanted=NAMES,
        )

    def _learn(self, said: Sequence[str], labels: NDArray[np.int64]) -> tuple[Heads, Matrix]:
        tokens, table = self._parts.tokens, self._parts.table
        ids = [tokens.ids(one) for one in said]
        embedding = self._parts.encoder.embed_all([tokens.framed(one, CAP) for one in ids])
        static = np.array([table.embed(one) for one in ids])
        first = np.array([_evidence(one) for one in said])
        x = {
            "static": static,
            "embedding": embedding,
            "both": np.hstack([embedding, static]),
            "joint": np.hstack([embedding, static, first]),
        }
        heads = {
            name: head_fitting.fit(
                x[name].astype(np.float64), labels, kind="softmax", classes=self.classes
            )
            for name in NAMES
        }
        return heads, fit(said, np.eye(len(self.classes))[labels])

    def _prompt(self, text: str) -> _Prompt:
        tokens, step = self._parts.tokens, CAP - 2
        ids = tokens.ids(text, ALL)
        windows = [tokens.framed(ids[at : at + step], CAP) for at in range(0, len(ids) or 1, step)]
        found = self._parts.encoder.embed_all(windows).astype(np.float64).sum(axis=0)
        static = self._parts.table.embed(ids).astype(np.float64)
        return _Prompt(text, ids, found, len(windows), static, _evidence(text))

    def document(self, domain: int, tokens: int, draw: random.Random) -> list[_Prompt]:
        """Prompts of a domain, drawn until they come to some length."""
        found: list[_Prompt] = []
        size = 0.0
        while size < tokens * CHARS_PER_TOKEN:
            found.append(draw.choice(self.held[domain]))
            size += len(found[-1].text) + 2
        return found

    def full(self, prompts: Sequence[_Prompt]) -> list[Vectors]:
        """Two readings of all the text: means of vectors, and the same of length 1."""
        total = np.sum([one.embeddings for one in prompts], axis=0)
        embedding = total / sum(one.windows for one in prompts)
        static = np.mean([one.static for one in prompts], axis=0)
        first = np.mean([one.evidence for one in prompts], axis=0)
        every = self._parts.table.embed([at for one in prompts for at in one.ids])
        as_one = _vectors(_unit(embedding), every.astype(np.float64), first)
        return [_vectors(embedding, static, first), as_one]

    def served(self, text: str) -> Vectors:
        """What the pipeline gives the heads."""
        found = self._pipeline.read([{"role": "user", "content": text}])
        return {name: np.array(found[name], dtype=np.float64) for name in NAMES}

    def says(self, name: str, vector: Matrix) -> int:
        """The domain that a head names."""
        return int(self.heads[name].says(vector[None])[0])

    def ridge_says(self, text: str) -> int:
        """The domain that the ridge on grams names."""
        return int(np.argmax(grams.read(text) @ self.ridge))


def fit(said: Sequence[str], targets: Sequence[float] | Matrix) -> Matrix:
    """Ridge regression on grams, by its dual form ``(size, classes)``."""
    x = np.array([grams.read(one) for one in said], np.float64)
    y = np.asarray(targets, np.float64).reshape(len(x), -1)
    found: Matrix = x.T @ np.linalg.solve(x @ x.T + np.eye(len(x)), y)
    return found


def _measure(domains: _Domains, *, quick: bool) -> list[Measure]:
    draw = random.Random(0)
    found = []
    for tokens in (2_000, 8_000, 32_000):
        full: dict[str, list[bool]] = defaultdict(list)
        short: dict[str, list[bool]] = defaultdict(list)
        for number in range((60 if quick else 240) // (2 if tokens > 8_000 else 1)):
            own = number % len(domains.classes)
            _ask(domains, domains.document(own, tokens, draw), own, full, short)
        for name, right in short.items():
            what = f"{name}, {domains.name}, {tokens // 1000}k tokens"
            found.append(_lost(what, _best(name, full), right))
    return found


def _ask(
    domains: _Domains,
    prompts: Sequence[_Prompt],
    own: int,
    full: dict[str, list[bool]],
    short: dict[str, list[bool]],
) -> None:
    """Add whether each reader is right of a document, by all of it and by what is left of it."""
    text = "\n\n".join(one.text for one in prompts)
    readings = domains.full(prompts)
    served = domains.served(text)
    for name in NAMES:
        for place, reading in enumerate(readings):
            full[f"{name} vector {place}"].append(domains.says(name, reading[name]) == own)
        short[f"{name} vector"].append(domains.says(name, served[name]) == own)
    full[f"{RIDGE} 0"].append(domains.ridge_says(text) == own)
    short[RIDGE].append(domains.ridge_says(compress(text).text) == own)


RIDGE = "ridge on grams"


def _best(name: str, full: dict[str, list[bool]]) -> list[bool]:
    """That reading of the full text which is right more often."""
    return max((right for key, right in full.items() if key[:-2] == name), key=sum)


def _lost(what: str, full: Sequence[bool], short: Sequence[bool]) -> Measure:
    lost = 100 * (np.array(full, float) - np.array(short, float))
    half = 1.96 * float(lost.std()) / np.sqrt(len(lost))
    points = float(lost.mean())
    bound = what.split(maxsplit=1)[0] not in UNBOUND
    return Measure(
        f"domain accuracy lost by compression, {what} (±{half:.1f})",
        round(points, 2),
        "points",
        f"accuracy of the full text: {np.mean(full):.4g}",
        None,
        f"<= {GOAL:g} points" if bound else None,
        points <= GOAL if bound else None,
    )


def _rows(place: Path, name: str) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with gzip.open(place / f"{name}.csv.gz", "rt", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _evidence(text: str) -> Matrix:
    return evidence(personal.read(text), suspicion.read(text)).astype(np.float64)


def _vectors(embedding: Matrix, static: Matrix, first: Matrix) -> Vectors:
    both = np.concatenate([embedding, static])
    joint = np.concatenate([both, first])
    return {"static": static, "embedding": embedding, "both": both, "joint": joint}


def _unit(vector: Matrix) -> Matrix:
    found: Matrix = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return found


if __name__ == "__main__":
    sys.exit(main(run))
