"""What signals with models take on one thread, beside the bare model's session in the same run."""

from collections.abc import Sequence
from functools import partial
from time import thread_time

import numpy as np

from bench.measure import Measure, at_most, seconds_each
from kernels.signals.encoder import CAP, Encoder
from kernels.signals.heads import Head, HeadBank, HeadKind
from kernels.signals.opening import Parts
from kernels.signals.pipeline import Budgets, Pipeline

SENTENCES = (
    "The committee asked how the new contract would change what tenants pay in winter. ",
    "A nurse wrote that two of her patients had slept badly after the second dose. ",
    "In the third quarter the firm sold fewer machines but kept its margin. ",
    "Nobody knew why the server had answered so slowly on that Tuesday in May. ",
    "She planted beans beside the wall, where the soil stays warm until October. ",
    "Please compare both offers and say which one you would rather take. ",
)
LENGTHS = {"60 characters": (60, 1e-3), "300 characters": (300, 4e-3)}
LONG_CHARS = 128_000
"""32,000 tokens at 4 characters each."""
NO_LIMIT = Budgets(static_s=59, encoder_s=59, reask_s=59)


def times(parts: Parts, *, quick: bool) -> list[Measure]:
    """The pipeline at three lengths, the encoder, and heads."""
    rounds = 5 if quick else 15
    found = [measure_pipeline(parts, name, *goal, rounds=rounds) for name, goal in LENGTHS.items()]
    found.append(measure_pipeline(parts, "32k tokens", LONG_CHARS, 15e-3, rounds=rounds))
    return [*found, *measure_encoder(parts, rounds), measure_heads(rounds)]


def writing(chars: int, seed: int) -> str:
    """A text that differs from that of any other seed from its first sentence on."""
    order = np.random.default_rng(seed).integers(0, len(SENTENCES), chars // 60 + 2)
    return f"{seed}. {''.join(SENTENCES[i] for i in order.tolist())}"[:chars]


def measure_pipeline(
    parts: Parts, name: str, chars: int, limit_s: float, *, rounds: int
) -> Measure:
    """A read of a new text, so that nothing is kept of it, beside one bare pass of the longest."""
    pipeline = Pipeline(
        tokens=parts.tokens,
        table=parts.table,
        encoder=Encoder(parts.session),
        heads=some_heads(),
        budgets=NO_LIMIT,
        wanted=("both",),
    )
    calls = 1 if chars > 10_000 else 10
    fresh = iter(range(10**9))
    texts = [writing(chars, seed) for seed in range((rounds + 2) * calls)]

    def read() -> None:
        told = pipeline.read([{"role": "user", "content": texts[next(fresh)]}])
        assert told["tiers.late"] == ""

    bare = list(range(1000, 1000 + CAP))
    spent, base = seconds_each(
        [read, lambda: parts.session.encode([bare])], rounds=rounds, calls=calls
    )
    return at_most(
        f"all signals of {name}, one thread",
        spent * 1e3,
        "ms",
        reference=(f"one bare encoder pass of {CAP} tokens", base * 1e3),
        limit=limit_s * 1e3,
    )


def measure_texts(parts: Parts, name: str, texts: Sequence[str], limit_s: float) -> list[Measure]:
    """A read of each of some texts with the vector ``both``: the mean, and what nine of ten take.

    A text's time is the least of three reads, none of which keeps anything.
    """
    pipeline = Pipeline(
        tokens=parts.tokens,
        table=parts.table,
        encoder=Encoder(parts.session, kept=1),
        heads=some_heads(),
        budgets=NO_LIMIT,
        wanted=("both",),
    )

    def seconds(text: str) -> float:
        started = thread_time()
        pipeline.read([{"role": "user", "content": text}])
        return thread_time() - started

    rounds = [[seconds(text) for text in texts] for _ in range(3)]
    spent = np.min(np.array(rounds), axis=0) * 1e3
    bare = list(range(1000, 1000 + CAP))
    (base,) = seconds_each([lambda: parts.session.encode([bare])], rounds=15, calls=5)
    reference = (f"one bare encoder pass of {CAP} tokens", base * 1e3)
    figures = {"mean": spent.mean(), "nine of ten": np.percentile(spent, 90)}
    return [
        at_most(f"{name}, {what}", float(value), "ms", reference=reference, limit=limit_s * 1e3)
        for what, value in figures.items()
    ]


def measure_encoder(parts: Parts, rounds: int) -> list[Measure]:
    """MiniLM through our session and through ONNX Runtime's own call."""
    found = []
    run = partial(parts.bare.run, ["embedding"])
    for count in (16, 32, CAP):
        ids = np.arange(1000, 1000 + count, dtype=np.int64)[None]
        ours, theirs = seconds_each(
            [partial(parts.session.encode, [ids[0].tolist()]), partial(run, {"input_ids": ids})],
            rounds=2 * rounds,
            calls=5,
        )
        found.append(
            at_most(
                f"MiniLM int8, {count} tokens",
                ours * 1e3,
                "ms",
                reference=("the bare session call", theirs * 1e3),
                limit=1.05 * theirs * 1e3,
            )
        )
    return found


def measure_heads(rounds: int) -> Measure:
    """Three heads on a vector of 384, beside their bare product."""
    bank = some_heads()
    vector = np.random.default_rng(1).normal(size=384).astype(np.float32)
    matrix = np.concatenate([head.weights for head in bank.heads])
    spent, base = seconds_each(
        [lambda: bank.read({"embedding": vector}), lambda: matrix @ vector],
        rounds=2 * rounds,
        calls=1000,
    )
    return at_most(
        "three heads on a vector of 384",
        spent * 1e6,
        "µs",
        reference=("their bare product", base * 1e6),
        limit=20.0,
    )


def some_heads() -> HeadBank:
    """A domain, a jailbreak and a feedback head with drawn weights."""
    rng = np.random.default_rng(7)

    def drawn(name: str, classes: tuple[str, ...], kind: HeadKind = "softmax") -> Head:
        rows = 1 if kind == "binary" else len(classes)
        weights = rng.normal(size=(rows, 384)).astype(np.float32)
        return Head(name, classes, "embedding", weights, np.zeros(rows, np.float32), kind=kind)

    feedback = ("satisfied", "needs_clarification", "wrong_answer", "wants_different")
    return HeadBank(
        [
            drawn("domain", tuple(f"domain_{i}" for i in range(13))),
            drawn("jailbreak", ("no", "yes"), "binary"),
            drawn("feedback", feedback),
        ]
    )
