"""Signals' models: what heads tell apart on tables that they have not seen, and what it takes.

Heads are trained by ``learners.head_fitting`` on one part of each table of $POINTSMAN_BENCH_DATA
and measured on another; nothing is chosen on the part that measures. Personal data are split by
template, and jailbreaks are also told from hard texts (:mod:`bench.jailbreak_hard`), since the
table's own are told by their length. ± is half of a 95 % interval (Hanley and McNeil 1982 for
AUROC). Times are beside the bare model's in the same run.
"""

import ast
import csv
import gzip
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import jailbreak_hard, minilm, tables
from bench.feedback_turns import TURNS
from bench.kernels_heads_times import NO_LIMIT, measure_texts, times
from bench.measure import Measure, main
from kernels.signals import grams, personal, prototypes, suspicion, text
from kernels.signals.encoder import CAP
from kernels.signals.heads import Head, HeadBank
from kernels.signals.opening import Parts, open_parts
from kernels.signals.pipeline import Pipeline, evidence
from learners import head_fitting, head_measures
from learners.heads import HeadModel

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Row = dict[str, str]
DOMAINS = ("finance", "healthcare", "law", "ood")
NO_YES = ("no", "yes")
SPLITS = (3, 4, 5)
"""Seeds of the splits over which the guarded domains are averaged."""


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures; those of tables only where the tables are."""
    parts = open_parts(minilm.root())
    found = [*times(parts, quick=quick), feedback_kind(parts)]
    place = tables.folder()
    if place is None:
        return found
    texts = Texts(parts, place)
    size = 4 if quick else 1
    for part in (domains, out_of_scope, personal_data, jailbreaks, complexity, asked_again, tiers):
        found += part(texts, size)
    return found


class Texts:
    """Rows of tables, and the vectors of texts."""

    def __init__(self, parts: Parts, place: Path) -> None:
        self._parts = parts
        self._place = place

    def rows(self, name: str, keep: int = 1) -> list[Row]:
        """Every ``keep``-th row of a table, in an order of chance that is always the same."""
        with gzip.open(self._place / f"{name}.csv.gz", "rt", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        order = np.random.default_rng(1).permutation(len(rows))
        return [rows[i] for i in order[: len(rows) // keep].tolist()]

    def embedding(self, texts: Sequence[str]) -> Floats:
        tokens = self._parts.tokens
        ids = [tokens.framed(tokens.ids(one), CAP) for one in texts]
        return self._parts.encoder.embed_all(ids).astype(np.float64)

    def times(self, name: str, texts: Sequence[str], limit_s: float) -> list[Measure]:
        return measure_texts(self._parts, name, texts, limit_s)

    def static(self, texts: Sequence[str]) -> Floats:
        ids = [self._parts.tokens.ids(one) for one in texts]
        return np.array([self._parts.table.embed(one) for one in ids], dtype=np.float64)

    def both(self, texts: Sequence[str]) -> Floats:
        return np.hstack([self.embedding(texts), self.static(texts)])

    def joint(self, texts: Sequence[str]) -> Floats:
        found = [evidence(personal.read(one), suspicion.read(one)) for one in texts]
        return np.hstack([self.both(texts), np.array(found)])


def domains(texts: Texts, size: int) -> list[Measure]:
    """Guarded routing: three domains, and all else out; sources of the rest unseen as well."""
    rows = texts.rows("guard_domain", min(size, 2))
    x = texts.both([unwrapped(row["text"]) for row in rows])
    labels = np.array([DOMAINS.index(row["label"]) for row in rows])
    source = np.array([row["source"].split(":")[0] for row in rows])
    test = _drawn(len(rows), 0.4)
    out = labels == DOMAINS.index("ood")
    splits = [_drawn(len(rows), 0.4, seed) for seed in SPLITS]

    def score(train: Flags, judge: Flags) -> float:
        head = head_fitting.fit(x[train], labels[train], kind="softmax", classes=DOMAINS)
        right = head.says(x[judge]) == labels[judge]
        known, unknown = right[~out[judge]].mean(), right[out[judge]].mean()
        return float(2 * known * unknown / (known + unknown))

    each = [score(~judge, judge) for judge in splits]
    name = f"guard_domain: GQR score, vector both, {min(each):.3f} to {max(each):.3f} by split"
    found = [_at_least(name, float(np.mean(each)), "", 0.88)]
    for family in ("unsafe", "clinc_oos"):
        unseen = out & (source == family)
        value = score(~test & ~unseen, (test & ~out) | unseen)
        found.append(Measure(f"guard_domain: the same, {family} unseen in training", value, ""))
    some = [unwrapped(row["text"]) for row in rows[:TIMED]]
    return found + texts.times("guard_domain: all signals of a text", some, 4e-3)


TIMED = 300
"""Texts whose reading is timed."""


def out_of_scope(texts: Texts, size: int) -> list[Measure]:
    """Intents against texts of none, of which training sees none."""
    del size
    rows = texts.rows("clinc150")
    rows = [row for row in rows if row["source_split"] in {"train", "test", "oos_test"}]
    intents = tuple(sorted({row["intent"] for row in rows if row["label"] != "oos"}))
    seen = dict.fromkeys(intents, 0)
    kept: list[Row] = []
    for row in rows:
        if row["source_split"] == "train":
            seen[row["intent"]] += 1
            if seen[row["intent"]] > PER_INTENT:
                continue
        kept.append(row)
    x = texts.embedding([row["text"] for row in kept])
    labels = np.array([intents.index(r["intent"]) if r["label"] != "oos" else -1 for r in kept])
    train = np.array([row["source_split"] == "train" for row in kept])
    head = head_fitting.fit(x[train], labels[train], kind="softmax", classes=intents)
    known = head_fitting.fit(x[train], labels[train], kind="ood", classes=intents)
    test = ~train
    doubt = 1.0 - head.probabilities(x[test]).max(axis=1)
    out = labels[test] < 0
    right = (head.says(x[test]) == labels[test])[~out].mean()
    return [
        _auroc("clinc150: out of scope, 1 − chance of the likeliest intent", doubt, out, 0.95),
        _auroc("clinc150: out of scope, ood head", known.logits(x[test]), out),
        Measure(f"clinc150: accuracy of 150 intents, {PER_INTENT} texts of each", float(right), ""),
    ]


PER_INTENT = 20


def personal_data(texts: Texts, size: int) -> list[Measure]:
    """Personal data in templates that training has not seen."""
    del size
    rows = texts.rows("guard_pii")
    x = texts.joint([row["text"] for row in rows])
    labels = np.array([row["label"] == "pii" for row in rows]).astype(np.int64)
    templates = np.array([row["template"] for row in rows])
    made = templates != "-1"
    names = np.random.default_rng(2).permutation(np.unique(templates[made]))
    test = np.where(made, np.isin(templates, names[: len(names) * 4 // 10]), _drawn(len(rows), 0.4))
    head = head_fitting.fit(x[~test], labels[~test], kind="binary", classes=NO_YES)
    logits, told = head.logits(x[test]), labels[test] == 1
    pattern = np.array([personal.read(row["text"]).score for row in rows])[test]
    alike = made[test]
    return [
        _auroc("guard_pii: unseen templates, joint vector", logits, told, 0.90),
        _auroc("guard_pii: the same, templates alone", logits[alike], told[alike]),
        _auroc("guard_pii: the same, patterns without a head", pattern[alike], told[alike]),
    ]


def jailbreaks(texts: Texts, size: int) -> list[Measure]:
    """The easy table, hard negatives, and hard texts before and after labels of their kind."""
    rows = texts.rows("guard_jailbreak", min(size, 2))
    x = texts.joint([unwrapped(row["text"]) for row in rows])
    kind = np.array([row["label"] for row in rows])
    attack = kind == "jailbreak"
    test = _drawn(len(rows), 0.4)
    own = [*jailbreak_hard.ATTACKS, *jailbreak_hard.BENIGN]
    hard = texts.joint(own)
    bad = np.arange(len(own)) < len(jailbreak_hard.ATTACKS)
    easy = ~test & (kind != "harmful")
    cold = _binary(x[easy], attack[easy])
    scores = cold.logits(x[test])
    judged = {
        "benign (easy: length alone tells)": kind[test] != "harmful",
        "harmful without a jailbreak": kind[test] != "benign",
    }
    found = [
        _auroc(f"guard_jailbreak: against {name}", scores[part], attack[test][part])
        for name, part in judged.items()
    ]
    warm = np.zeros(len(own))
    folds = np.random.default_rng(4).permutation(len(own)) % 5
    for fold in range(5):
        given = folds != fold
        both = np.concatenate([x[easy], hard[given]])
        weight = np.concatenate([np.ones(easy.sum()), np.full(given.sum(), LABEL_WEIGHT)])
        head = _binary(both, np.concatenate([attack[easy], bad[given]]), weight)
        warm[~given] = head.logits(hard[~given])
    patterns = np.array([suspicion.read(one).score for one in own])
    return [
        *found,
        _auroc("jailbreak, hard texts: cold", cold.logits(hard), bad),
        _auroc("jailbreak, hard texts: after 48 labels of such", warm, bad),
        _auroc("jailbreak, hard texts: suspicion without a head", patterns, bad),
    ]


LABEL_WEIGHT = 5.0
"""Of a hard text among the easy ones: a label by hand tells more than one by its source."""


def complexity(texts: Texts, size: int) -> list[Measure]:
    """Whether the weak model's answer will be right."""
    rows = texts.rows("routellm2.queries", 3 * size)
    with gzip.open(tables.folder() / "routellm2.outcomes.csv.gz", "rt") as stream:  # type: ignore[operator]
        scores = {
            row["query_id"]: float(row["score"])
            for row in csv.DictReader(stream)
            if row["model"] == WEAK
        }
    rows = [row for row in rows if row["query_id"] in scores]
    x = texts.joint([row["query_text"] for row in rows])
    good = np.array([scores[row["query_id"]] >= 0.5 for row in rows])
    test = _drawn(len(rows), 0.4)
    head = _binary(x[~test], good[~test], l2=10.0)
    measured = head_measures.evaluate(head, x[test], good[test].astype(np.int64))
    return [
        _auroc("routellm2: the weak model suffices", head.logits(x[test]), good[test]),
        Measure("routellm2: calibration error of that chance", measured.ece, ""),
    ]


WEAK = "mixtral-8x7b-instruct"


def asked_again(texts: Texts, size: int) -> list[Measure]:
    """Pairs of texts by their intents; there is no table of users who ask again."""
    rows = [row for row in texts.rows("banking77", 2 * size) if row["intent"]]
    x = texts.embedding([row["text"] for row in rows])
    intent = np.array([row["intent"] for row in rows])
    close = x @ x.T >= 0.8
    upper = np.triu(np.ones_like(close), 1)
    same = (intent[:, None] == intent[None, :]) & upper
    other = (intent[:, None] != intent[None, :]) & upper
    return [
        Measure("re-ask: pairs of one intent with cosine ≥ 0.8", float(close[same].mean()), ""),
        Measure("re-ask: pairs of two intents with cosine ≥ 0.8", float(close[other].mean()), ""),
    ]


def feedback_kind(parts: Parts) -> Measure:
    """What a turn says of the answer before it, by the prototypes that come with the program."""
    weights = prototypes.shipped()
    kinds = tuple(prototypes.FEEDBACK)
    bias = np.zeros(len(kinds), dtype=np.float32)
    bank = HeadBank([Head("feedback", kinds, prototypes.FEATURE, weights, bias)])
    pipeline = Pipeline(tokens=parts.tokens, encoder=parts.encoder, heads=bank, budgets=NO_LIMIT)
    turns = [(kind, turn) for kind, said in TURNS.items() for turn in said]

    def read(turn: str) -> object:
        asked = ("What is the capital of France?", turn)
        return pipeline.read([{"role": "user", "content": one} for one in asked])["feedback"]

    right = float(np.mean([read(turn) == kind for kind, turn in turns]))
    half = 1.96 * np.sqrt(right * (1 - right) / len(turns))
    name = f"feedback kind of {len(turns)} turns by prototypes, nothing learnt (±{half:.3f})"
    return _at_least(name, right, "share", 0.7)


def tiers(texts: Texts, size: int) -> list[Measure]:
    """The domain of a question by what each tier's vector tells."""
    rows = texts.rows("mmlu_pro.queries", 3 * size)
    domain = sorted({row["domain"] for row in rows})
    labels = np.array([domain.index(row["domain"]) for row in rows])
    queries = [row["query_text"] for row in rows]
    test = _drawn(len(rows), 0.4)
    vectors: dict[str, Callable[[], Floats]] = {
        "64 hashed words": lambda: np.array([text.read(one)["terms"] for one in queries]),
        "1,024 hashed grams": lambda: np.array(
            [grams.read(one, size=1024) for one in queries], dtype=np.float64
        ),
        "static": lambda: texts.static(queries),
        "embedding": lambda: texts.embedding(queries),
        "both": lambda: texts.both(queries),
        "joint": lambda: texts.joint(queries),
    }
    found = []
    for name, make in vectors.items():
        x = make()
        classes = tuple(domain)
        head = head_fitting.fit(x[~test], labels[~test], kind="softmax", classes=classes)
        right = (head.says(x[test]) == labels[test]).mean()
        half = 1.96 * np.sqrt(right * (1 - right) / test.sum())
        found.append(
            Measure(
                f"mmlu_pro: accuracy of {len(domain)} domains by {name} (±{half:.3f})", right, ""
            )
        )
    return found


def unwrapped(raw: str) -> str:
    """A prompt without the wrapper that tells the source of some rows, and so their label."""
    if not raw.startswith("{'prompt'"):
        return raw
    try:
        return str(ast.literal_eval(raw)["prompt"])
    except (ValueError, SyntaxError, KeyError):
        return raw


def _binary(
    x: Floats, labels: Flags, weight: Floats | None = None, *, l2: float = head_fitting.L2
) -> HeadModel:
    whole = labels.astype(np.int64)
    return head_fitting.fit(x, whole, kind="binary", classes=NO_YES, l2=l2, sample_weight=weight)


def _drawn(count: int, share: float, seed: int = 3) -> Flags:
    return np.random.default_rng(seed).random(count) < share


def _auroc(name: str, scores: Floats, told: Flags, goal: float | None = None) -> Measure:
    """An area with its interval (Hanley and McNeil 1982, equation 1)."""
    found = head_measures.auroc(scores, told.astype(np.float64), np.ones(len(scores)))
    assert found is not None, f"{name}: one class alone"
    yes, no = int(told.sum()), int((~told).sum())
    q1, q2 = found / (2 - found), 2 * found**2 / (1 + found)
    variance = found * (1 - found) + (yes - 1) * (q1 - found**2) + (no - 1) * (q2 - found**2)
    half = 1.96 * np.sqrt(max(0.0, variance) / (yes * no))
    return _at_least(f"{name} (±{half:.3f})", found, "AUROC", goal)


def _at_least(name: str, value: float, unit: str, goal: float | None) -> Measure:
    if goal is None:
        return Measure(name, float(f"{value:.4g}"), unit)
    held = bool(value >= goal)
    return Measure(name, float(f"{value:.4g}"), unit, goal=f">= {goal:g}", holds=held)


if __name__ == "__main__":
    sys.exit(main(run))
