"""The first tier of signals, compression and intake: times, what is kept, what is found.

Times are of the CPU, of one thread: the least of some rounds, for other programs only add to them.
Without tables ($POINTSMAN_BENCH_DATA) only the times are measured, on made text.
"""

import ast
import csv
import gzip
import json
import random
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from bench import kernels_domains
from bench.measure import Measure, at_most, main
from bench.tables import folder
from edge.chat import read_chat
from kernels.compress import BUDGET, compress
from kernels.intake import Intake
from kernels.segments import split
from kernels.signals import grams, language, personal, suspicion, text

SAID = 'It was the best of times.\nThe "age" of wisdom, naïve. '
PLAIN = "It was the best of times, it was the worst of times. "
CHARS_PER_TOKEN = 3.7  # of these prompts: their questions' choices are many short marks
Rows = list[dict[str, str]]
Matrix = NDArray[np.float64]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All rows; ``quick`` plants and classifies fewer texts."""
    draw = random.Random(0)
    texts = _long_texts()
    rounds = 5 if quick else 15
    documents = {tokens: _document(texts, tokens, draw) for tokens in (2_000, 8_000, 32_000)}
    found = [
        *_compression(documents, rounds),
        *_tier(documents[32_000], rounds),
        *_intake(rounds),
        *_peaks(),
    ]
    if folder() is not None:
        found += _planted(texts, draw, 40 if quick else 150)
        found += kernels_domains.run(quick)
        found.append(_personal())
    return found


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The least CPU time of one call."""
    work()
    found = []
    for _ in range(rounds):
        started = thread_time()
        work()
        found.append(thread_time() - started)
    return min(found)


def _rows(name: str) -> Rows:
    place = folder()
    if place is None:
        return []
    csv.field_size_limit(sys.maxsize)
    with gzip.open(place / f"{name}.csv.gz", "rt", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _long_texts() -> list[str]:
    """Benign prompts of some length, questions with their choices among them."""
    rows = [row["text"] for row in _rows("guard_jailbreak") if row["label"] == "benign"]
    found = [one for one in rows if len(one) > 400]
    found += [
        row["query_text"] for row in _rows("mmlu_pro.queries") if len(row["query_text"]) > 300
    ]
    nouns = ["river", "bridge", "engine", "market", "planet", "voltage", "glacier", "treaty"]
    draw = random.Random(1)
    made = [
        " ".join(f"The {draw.choice(nouns)} meets a {draw.choice(nouns)}." for _ in range(40))
        for _ in range(200)
    ]
    return found or made


def _document(texts: Sequence[str], tokens: int, draw: random.Random) -> str:
    parts: list[str] = []
    size = 0
    while size < tokens * CHARS_PER_TOKEN:
        parts.append(draw.choice(texts))
        size += len(parts[-1]) + 2
    return "\n\n".join(parts)[: int(tokens * CHARS_PER_TOKEN)]


def _compression(documents: dict[int, str], rounds: int) -> list[Measure]:
    found = []
    base = seconds(lambda: compress(documents[2_000]), rounds)
    for tokens, document in documents.items():
        took = seconds(lambda document=document: compress(document), rounds)  # type: ignore[misc]
        name = f"compression of {tokens // 1000}k tokens to {BUDGET}"
        found.append(
            at_most(name, took * 1e3, "ms", reference=("of 2k tokens", base * 1e3), limit=15.0)
        )
    left = compress(documents[32_000])
    found.append(
        Measure(
            "tokens left of 32k, estimated",
            left.tokens,
            "tokens",
            f"before: {left.tokens_before}",
            round(left.tokens / left.tokens_before, 4),
            f"<= {BUDGET} tokens",
            left.tokens <= BUDGET,
        )
    )
    return found


def _tier(document: str, rounds: int) -> list[Measure]:
    """Each part of the first tier at three lengths, beside reading the fields of today's policy."""
    found = []
    for name, size in (
        ("60 characters", 60),
        ("300 characters", 300),
        ("32k tokens", len(document)),
    ):
        part = document[:size]
        segments = split(part)
        base = seconds(lambda: text.read(part), rounds)  # noqa: B023 — called at once
        works: dict[str, Callable[[], object]] = {
            "sentences and words": lambda: split(part),  # noqa: B023
            "language": lambda: language.read(part),  # noqa: B023
            "grams": lambda: grams.read(part),  # noqa: B023
            "personal data, sentences known": lambda: personal.read(part, segments),  # noqa: B023
            "suspicion, sentences known": lambda: suspicion.read(part, segments),  # noqa: B023
        }
        for what, work in works.items():
            took = seconds(work, rounds)
            found.append(
                Measure(
                    f"{what}, {name}",
                    float(f"{took * 1e3:.4g}"),
                    "ms",
                    f"words and flags: {base * 1e3:.4g} ms",
                    float(f"{took / base:.4g}"),
                )
            )
    return found


def _intake(rounds: int) -> list[Measure]:
    """A body of 128,000 characters: re-serialised or passed on, read at its end or meanwhile."""
    said = SAID * 2_400
    body = _body(said)
    parsed = seconds(lambda: _serialised(body), rounds)
    passed = seconds(lambda: _passed_on(body), rounds)
    whole = seconds(
        lambda: (personal.read(said), suspicion.read(said), language.read(said)), rounds
    )
    late = min(_after_last_byte(body) for _ in range(rounds))
    return [
        at_most(
            "a large body read and passed on",
            passed * 1e3,
            "ms",
            reference=("json parsed and serialised", parsed * 1e3),
            limit=parsed * 1e3 / 2,
        ),
        at_most(
            "signals of a large body after its last byte",
            late * 1e3,
            "ms",
            reference=("read when all is there", whole * 1e3),
            limit=whole * 1e3 / 2,
        ),
    ]


def _peaks() -> list[Measure]:
    """Memory that large bodies take beside themselves until an arm's body is there.

    Of text with many escapes a buffer grows by steps, so how full its last step is decides: bodies
    of 4 to 6 MiB, half as much again, meet all fillings alike.
    """
    found = []
    for name, said in (("of plain text", PLAIN), ("with 4 escapes in 54 letters", SAID)):
        each = len(_body(said)) - len(_body(""))
        bodies = [_body(said * (int(1.5 ** (step / 6) * (4 << 20)) // each)) for step in range(6)]
        passed, parsed = (
            sum(peak_bytes(partial(work, body)) / len(body) for body in bodies) / len(bodies)
            for work in (_passed_on, _serialised)
        )
        found.append(
            Measure(
                f"peak memory of bodies of 4 to 6 MiB {name}, read and passed on",
                float(f"{passed:.4g}"),
                "bodies",
                f"json parsed and serialised: {parsed:.4g} bodies",
                float(f"{passed / parsed:.4g}"),
            )
        )
    return found


def _passed_on(body: bytes) -> bytes:
    return read_chat(body, {}).body_for("m")


def _serialised(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "model": "m"}).encode()


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that Python's allocators hold at most during a call, beyond what they hold before."""
    work()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _body(said: str) -> bytes:
    asked = {"model": "route/chat", "messages": [{"role": "user", "content": said}]}
    return json.dumps(asked).encode()


def _after_last_byte(body: bytes, step: int = 16_384) -> float:
    """CPU seconds from the last part of a body to its signals."""
    intake = Intake()
    cuts = range(0, len(body), step)
    for at in cuts[:-1]:
        intake.feed(body[at : at + step])
    started = thread_time()
    intake.feed(body[cuts[-1] :])
    assert intake.finish() is not None
    return thread_time() - started


@dataclass(frozen=True, slots=True)
class _Planting:
    """A kind of planted text: its sentences, and the goals at 2k, 8k and 32k tokens."""

    name: str
    passages: list[list[str]]
    goals: tuple[float | None, float | None, float | None]


def _planted(texts: Sequence[str], draw: random.Random, count: int) -> list[Measure]:
    found = []
    for planting in _plantings():
        for tokens, goal in zip((2_000, 8_000, 32_000), planting.goals, strict=True):
            kept = without = 0
            for _ in range(count):
                passage = draw.choice(planting.passages)
                document = _with(_document(texts, tokens, draw), passage, draw)
                kept += _holds(compress(document).text, passage)
                without += _holds(compress(document, reserve=0).text, passage)
            share = kept / count
            found.append(
                Measure(
                    f"kept of planted {planting.name}, {tokens // 1000}k tokens",
                    share,
                    "share",
                    f"without the reserve: {without / count:g} share",
                    None,
                    None if goal is None else f">= {goal:g} share",
                    None if goal is None else share >= goal,
                )
            )
    return found


def _plantings() -> list[_Planting]:
    """What is planted: the most telling sentence, a passage, any one sentence; and plain harm.

    Which sentence of an attack tells most is judged by a classifier of its own, on grams, which
    has learnt from the other half of the table and knows nothing of the suspicion that is tested.
    """
    rows = _rows("guard_jailbreak")
    attacks = [_sentences(row["text"]) for row in rows if row["label"] == "jailbreak"]
    attacks = [one for one in attacks if one]
    benign = [one for row in rows if row["label"] == "benign" for one in _sentences(row["text"])]
    learnt = [one for sentences in attacks[::2] for one in sentences][:1_000]
    weights = kernels_domains.fit(
        learnt + benign[:1_000], [1.0] * len(learnt) + [-1.0] * len(benign[:1_000])
    )
    judged = attacks[1::2]
    most = [[max(one, key=lambda s: float(grams.read(s) @ weights[:, 0]))] for one in judged]
    passages = [one[at : at + 3] for one in judged for at in range(0, len(one), 5)]
    single = [[one] for sentences in judged for one in sentences]
    harm = [[_prompt(row["text"])] for row in rows if row["label"] == "harmful"]
    return [
        _Planting("telling sentences", most, (0.9, 0.9, 0.6)),
        _Planting("passages of 3 sentences", passages, (0.9, 0.9, 0.6)),
        _Planting("sentences at random", single, (None, None, None)),
        _Planting("harmful questions", harm, (None, None, None)),
    ]


def _prompt(told: str) -> str:
    return str(ast.literal_eval(told)["prompt"]) if told.startswith("{'prompt'") else told


def _sentences(of: str) -> list[str]:
    segments = split(of)
    words = np.bincount(segments.owner, minlength=len(segments))
    return [segments.sentence(index) for index in range(len(segments)) if words[index] >= 4]


def _with(document: str, passage: list[str], draw: random.Random) -> str:
    """The passage as a paragraph of its own in the middle half of the document."""
    parts = document.split("\n\n")
    at = draw.randint(len(parts) // 4, max(len(parts) // 4, len(parts) * 3 // 4))
    return "\n\n".join([*parts[:at], " ".join(passage), *parts[at:]])


def _holds(left: str, passage: list[str]) -> bool:
    """Whether a sentence of the passage is there, at least its first 40 characters."""
    return any(one[:40] in left for told in passage for one in (_sentences(told) or [told]))


def _personal() -> Measure:
    rows = _rows("guard_pii")
    scores = np.array([personal.read(row["text"]).score for row in rows])
    holds = np.array([row["label"] == "pii" for row in rows])
    one, other = scores[holds][:, None], scores[~holds]
    auroc = float((one > other).mean() + (one == other).mean() / 2)
    return Measure(
        "AUROC of the score of personal data, nothing learnt",
        round(auroc, 4),
        "share",
        None,
        None,
        ">= 0.9 share",
        auroc >= 0.9,
    )


if __name__ == "__main__":
    sys.exit(main(run))
