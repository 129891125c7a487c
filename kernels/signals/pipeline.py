"""A chat's messages → all of its signals, tier by tier, within a time budget.

=========  ====================================================  ===========================
tier       what                                                  read off
=========  ====================================================  ===========================
text       numbers, flags, hashed words, language, hashed grams  the user's newest messages
text       personal data, suspicion: patterns, no model          all of user and tool messages
static     mean of token vectors (:mod:`kernels.signals.static`)  the last turn, compressed
encoder    one MiniLM pass for all heads                         the last turn, its ends or parts
=========  ====================================================  ===========================

The encoder costs most by far, so the last turn alone goes through it, and of a long one a choice of
words and sentences (:func:`kernels.compress.telling`). The patterns that must not miss a sentence
(personal data, suspicion) read the full text of :func:`kernels.signals.text.guarded_texts` in the
first tier, which no budget shortens. Earlier turns are compared with the last one where their
vectors are kept, or the budget allows another pass.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from kernels.compress import compress_segments, telling
from kernels.intake import Early
from kernels.segments import Segments, split
from kernels.signals import brief, grams, language, personal, reask, suspicion, text
from kernels.signals.encoder import CAP, Encoder, Ids
from kernels.signals.heads import HeadBank
from kernels.signals.personal import Personal
from kernels.signals.static import StaticTable
from kernels.signals.suspicion import Suspicion
from kernels.signals.tokens import MAX_TOKENS, Tokens

Floats = NDArray[np.float32]
Value = float | str | bool | list[float]
Signals = dict[str, Value]
SHORT = 512
"""Characters that surely need no compression."""
PARTS, PART = 6, 16
"""How many parts of a long text the encoder reads, and their tokens with the two that frame each.

A long text is of many things: the mean of short looks at six of them tells its subject better than
one look of 64 tokens, for half as much time again."""
MAX_CHARS = 262_144
"""Characters of a turn that are compressed: the rest of a longer one is in no vector but grams'."""
PERSONAL = 0.5
"""Score from which a text counts as personal."""
VECTORS = ("grams", "static", "embedding", "both", "joint")
"""Names of the vectors; ``both`` is the embedding and the static vector, ``joint`` these and
:func:`evidence`."""
ENCODED = frozenset({"embedding", "both", "joint"})
"""Those that need the encoder."""
_KINDS = tuple(sorted(personal.CERTAINTY))
_MOST = 2


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds since a request's start after which a tier is not begun any more.

    Nothing that has begun is broken off: one pass of the encoder bounds how far a read can go over.
    """

    static_s: float = 0.015
    encoder_s: float = 0.015
    reask_s: float = 0.008

    def __post_init__(self) -> None:
        for name in ("static_s", "encoder_s", "reask_s"):
            if not 0 <= getattr(self, name) < 60:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 to 60 seconds")


class Pipeline:
    """Reads signals. Safe to share between threads.

    Args:
        tokens: the tokeniser; without it neither table nor encoder are read.
        table: the static table, where it is installed.
        encoder: the encoder, where it is installed.
        heads: what is read off the vectors.
        budgets: when a tier is left out.
        wanted: vectors that the signals shall hold, of :data:`VECTORS`; heads need not name theirs.
        clock: seconds, ever rising.

    Raises:
        ValueError: A vector is unknown.
    """

    def __init__(
        self,
        *,
        tokens: Tokens | None = None,
        table: StaticTable | None = None,
        encoder: Encoder | None = None,
        heads: HeadBank | None = None,
        budgets: Budgets | None = None,
        wanted: Collection[str] = ("embedding",),
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        unknown = sorted(set(wanted) - set(VECTORS))
        if unknown:
            raise ValueError(f"wanted: {unknown} are no vectors: give some of {VECTORS}")
        self._tokens = tokens
        self._table = table if tokens is not None else None
        self._encoder = encoder if tokens is not None else None
        self._heads = heads or HeadBank()
        self._budgets = budgets or Budgets()
        self._wanted = frozenset(wanted)
        self._used = self._wanted | set(self._heads.dimensions)
        self._clock = clock

    def with_heads(self, heads: HeadBank, wanted: Collection[str] | None = None) -> "Pipeline":
        """The same models under other heads: what a new bundle brings."""
        return Pipeline(
            tokens=self._tokens,
            table=self._table,
            encoder=self._encoder,
            heads=heads,
            budgets=self._budgets,
            wanted=self._wanted if wanted is None else wanted,
            clock=self._clock,
        )

    def read(
        self,
        messages: Sequence[object],
        early: Early | None = None,
        *,
        started: float | None = None,
    ) -> Signals:
        """The signals of an OpenAI chat request's ``messages``.

        Args:
            messages: as they came.
            early: what was read of the same text while it came (:mod:`kernels.intake`), which is
                then not read again; one of less text than there is counts for nothing.
            started: when the request was there, in seconds of the pipeline's ``clock``: what it
                has waited since counts against the budgets. None: now.

        Returns:
            The first tier's values: those of :func:`kernels.signals.text.read_messages`,
            ``language``, ``suspicion`` (0 to 1), ``personal``, ``personal.score`` and a flag
            ``personal.<kind>`` for each kind that was found. Then ``tiers``, those that were
            read, and ``tiers.late``, those that were left out for time, with commas; the wanted
            vectors; ``reask`` and ``reask.cosine`` where the encoder was read; and what
            :meth:`HeadBank.read` returns.
        """
        run = _Run(self._clock, self._clock() if started is None else started)
        turns, count = text.user_turns(messages)
        whole = "\n".join(turns)
        # One message alone is the same text for all.
        guarded = whole if len(messages) == 1 else "\n".join(text.guarded_texts(messages))
        if early is not None and early.chars < len(guarded):
            early = None
        found: Signals = {**text.read(whole), "turns": math.log1p(count)}
        private, suspect, cut = _guarding(guarded, early)
        found.update(_first(private, suspect))
        known = early is not None and len(messages) <= text.MAX_MESSAGES
        found["language"] = (early.language if early and known else language.read(whole)).code
        vectors: dict[str, Floats] = {}
        if "grams" in self._used:
            size = self._heads.dimensions.get("grams", grams.SIZE)
            vectors["grams"] = grams.read(whole, size=size)
        if turns and (self._table is not None or self._encoder is not None):
            same = len(turns) == 1 and guarded == whole
            self._read_models(turns, cut if same else None, run, vectors, found)
        if self._used & {"both", "joint"} and {"static", "embedding"} <= vectors.keys():
            vectors["both"] = np.concatenate([vectors["embedding"], vectors["static"]])
            if "joint" in self._used:
                vectors["joint"] = np.concatenate([vectors["both"], evidence(private, suspect)])
        for name in self._wanted & vectors.keys():
            found[name] = half(vectors[name])
        found.update(self._heads.read(vectors))
        found["tiers"] = ",".join(run.tiers)
        found["tiers.late"] = ",".join(run.late)
        return found

    def _read_models(
        self,
        turns: Sequence[str],
        cut: "_Cut | None",
        run: "_Run",
        vectors: dict[str, Floats],
        found: Signals,
    ) -> None:
        assert self._tokens is not None  # noqa: S101 — no table and no encoder without it
        wants_static = self._table is not None and bool(self._used & {"static", "both", "joint"})
        wants_encoder = self._encoder is not None and bool(self._used & ENCODED)
        if not wants_static and not wants_encoder:
            return
        turn = _Turn(turns[-1], self._tokens, cut)
        if wants_static and run.begin("static", self._budgets.static_s):
            assert self._table is not None  # noqa: S101 — wanted only where it is there
            vectors["static"] = self._table.embed(turn.gist())
        if wants_encoder and run.begin("encoder", self._budgets.encoder_s):
            vectors["embedding"] = self._embed(turn.parts(), turns, run, found)

    def _embed(
        self, parts: Sequence[Ids], turns: Sequence[str], run: "_Run", found: Signals
    ) -> Floats:
        """The last turn's vector, and what it says of the turns before."""
        assert self._tokens is not None  # noqa: S101 — as above
        assert self._encoder is not None  # noqa: S101 — as above
        current = self._encoder.embed_parts(parts)
        earlier: list[Floats] = []
        for turn in reversed(turns[-1 - reask.TURNS : -1]):
            if len(turn) > SHORT and run.elapsed() >= self._budgets.reask_s:
                continue  # to cut a long one takes time itself, known or not
            before = _Turn(turn, self._tokens).parts()
            if self._encoder.knows(before) or run.elapsed() < self._budgets.reask_s:
                earlier.append(self._encoder.embed_parts(before))
        cosine = reask.nearest(current, earlier)
        found["reask.cosine"] = cosine
        found["reask"] = cosine >= reask.THRESHOLD
        return current


class _Run:
    """What one read has come to."""

    def __init__(self, clock: Callable[[], float], started: float) -> None:
        self._clock = clock
        self._started = started
        self.tiers = ["text"]
        self.late: list[str] = []

    def elapsed(self) -> float:
        return self._clock() - self._started

    def begin(self, tier: str, budget_s: float) -> bool:
        fits = self.elapsed() < budget_s
        (self.tiers if fits else self.late).append(tier)
        return fits


def half(vector: Floats) -> list[float]:
    """A vector as a context holds it: rounded to half precision, which halves its log."""
    rounded: list[float] = vector.astype(np.float16).astype(np.float64).tolist()
    return rounded


def evidence(private: Personal, suspect: Suspicion) -> Floats:
    """What the first tier found in the full text, as numbers for a head.

    Returns:
        How often each kind of :data:`kernels.signals.personal.CERTAINTY` was found, in the order of
        their names and 2 at most, then the suspicion.
    """
    counts = [float(min(_MOST, private.counts.get(kind, 0))) for kind in _KINDS]
    return np.array([*counts, suspect.score], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A text's sentences and their suspicions: one division serves all who need one."""

    segments: Segments
    suspicions: suspicion.Scores


def _guarding(guarded: str, early: Early | None) -> tuple[Personal, Suspicion, _Cut | None]:
    """What must see every character; and the text's sentences, where it was cut into them."""
    if early is not None:
        return early.personal, early.suspicion, None
    told = brief.read(guarded)
    if told is not None:
        return *told, None
    if not 0 < len(guarded) <= MAX_CHARS:
        return personal.read(guarded), suspicion.read(guarded), None
    segments = split(guarded)
    cut = _Cut(segments, suspicion.score(segments))
    return personal.read(guarded, segments), suspicion.of(cut.suspicions), cut


def _first(private: Personal, suspect: Suspicion) -> Signals:
    score = private.score
    found: Signals = {f"personal.{kind}": True for kind in private.counts}
    found |= {"personal": score >= PERSONAL, "personal.score": score}
    return found | {"suspicion": suspect.score}


class _Turn:
    """What the models read of a turn: all of its first tokens or, where it is long, a choice."""

    def __init__(self, said: str, tokens: Tokens, cut: _Cut | None = None) -> None:
        self._said = said[:MAX_CHARS]
        self._tokens = tokens
        self._cut = cut
        self._segments: Segments | None = None
        if len(said) > SHORT:
            segments = split(self._said) if cut is None else cut.segments
            self._segments = segments if int(segments.tokens.sum()) > MAX_TOKENS else None
        self._ids = tokens.ids(self._said) if self._segments is None else []

    def gist(self) -> list[int]:
        """The token ids for the static table: of a long turn those of its compressed text."""
        if self._segments is None:
            return self._ids
        scores = None if self._cut is None else self._cut.suspicions
        gist = compress_segments(self._segments, self._said, budget=MAX_TOKENS, suspicions=scores)
        return self._tokens.ids(gist.text)

    def parts(self) -> list[list[int]]:
        """The framed ids for the encoder: one text or, of a long turn, :data:`PARTS` short ones."""
        if self._segments is None:
            return [self._tokens.framed(self._ids, CAP)]
        bare = PART - 2
        told = self._tokens.ids(telling(self._segments))[: PARTS * bare]
        # Parts of one length go through the encoder together, so the last ones overlap.
        count = max(1, -(-len(told) // bare))
        last = max(0, len(told) - bare)
        starts = [last * at // max(1, count - 1) for at in range(count)]
        return [self._tokens.framed(told[at : at + bare], PART) for at in starts]
