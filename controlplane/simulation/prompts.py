"""Prompts of the synthetic world: templates and words, a vocabulary of its own for each domain."""

import hashlib
import re
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What prompts of one domain are made of: ``{a}``, ``{b}`` and ``{c}`` are filled by words."""

    templates: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]
    c: tuple[str, ...]


def _vocabulary(templates: str, a: str, b: str, c: str) -> Vocabulary:
    def words(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|"))

    return Vocabulary(words(templates), words(a), words(b), words(c))


VOCABULARIES = MappingProxyType(
    {
        "code": _vocabulary(
            "Write a {a} function that parses {b} and returns {c}."
            "|My {a} program throws an exception while iterating over {b}; debug it, keep {c}."
            "|Refactor this {a} class so that {b} are cached and {c} stays thread-safe."
            "|Add a unit test in {a} for {b}, mocking {c}."
            "|Why does my {a} compiler reject {b} when I import {c}?",
            "Python|Rust|TypeScript|Golang|Java|Kotlin|Haskell|C++|Swift|Ruby",
            "JSON payloads|linked lists|SQL queries|regex groups|async callbacks|hash maps"
            "|git commits|docker images|binary trees|stack traces",
            "a dictionary|the iterator|an enum|the API client|a dataclass|the mutex|a byte buffer"
            "|the logger|a recursive generator|the pointer",
        ),
        "maths": _vocabulary(
            "Prove that the {a} of {b} converges when {c}."
            "|Compute the {a} of {b} given that {c}."
            "|Solve for x: the {a} equals {b} and {c}."
            "|How many distinct {b} satisfy the {a} if {c}?"
            "|Find the {a} over the interval where {c}, using {b}.",
            "integral|derivative|determinant|eigenvalue|probability|remainder|polynomial|limit"
            "|variance|hypotenuse",
            "prime numbers|an infinite series|a 3x3 matrix|rational fractions|two dice"
            "|geometric progressions|complex roots|a right triangle|permutations|logarithms",
            "n is even|the sum is bounded|p divides q|x is positive|the angle is obtuse"
            "|both factors are coprime|the modulus is 7|the slope is zero|k exceeds 12"
            "|the radius doubles",
        ),
        "law": _vocabulary(
            "Does the {a} remain liable under {b} after {c}?"
            "|Draft a {b} clause protecting the {a} against {c}."
            "|Summarise the court's holding on {b} where the {a} alleged {c}."
            "|Which statute governs {b} if the {a} is accused of {c}?"
            "|Advise the {a} whether {c} breaches the {b}.",
            "plaintiff|defendant|tenant|landlord|trustee|guarantor|employer|licensee|creditor"
            "|shareholder",
            "tort jurisprudence|indemnity|the lease agreement|fiduciary duty|patent infringement"
            "|consumer legislation|the arbitration contract|negligence|data protection regulation"
            "|bankruptcy procedure",
            "wrongful termination|a late injunction|misrepresentation|unpaid damages"
            "|breach of warranty|an unlawful eviction|defamation|an antitrust complaint"
            "|the statutory deadline|a hostile takeover",
        ),
        "writing": _vocabulary(
            "Compose a {a} about {b} in a {c} tone."
            "|Rewrite my {a} so that {b} sounds more {c}."
            "|Give me an opening paragraph for a {c} {a} featuring {b}."
            "|Suggest ten titles for a {a} on {b}, all {c}."
            "|Edit this {a}: the metaphor of {b} should feel {c}.",
            "poem|short story|blog essay|wedding speech|newsletter|sonnet|screenplay|haiku"
            "|birthday toast|fairy tale",
            "autumn leaves|an old lighthouse|childhood friendship|a stubborn dragon|moonlight"
            "|a lonely robot|grandmother's kitchen|the open sea|a lost letter|spring blossoms",
            "whimsical|melancholic|heartfelt|playful|suspenseful|nostalgic|witty|lyrical|sincere"
            "|dreamy",
        ),
        "support": _vocabulary(
            "My {a} arrived with a {b}; can I get {c}?"
            "|How do I reset the {a} after a {b}, and will I keep {c}?"
            "|I was charged twice for the {a} because of a {b}; please arrange {c}."
            "|Where is my {a}? The courier reported a {b} and I expected {c}."
            "|Cancel my {a} subscription due to a {b} and confirm {c} by email.",
            "headphones|router box|coffee machine|phone plan|streaming account|parcel|smartwatch"
            "|gift card|vacuum cleaner|tablet",
            "cracked screen|billing mistake|delivery delay|forgotten password|flat battery"
            "|missing cable|login failure|wrong size|broken seal|duplicate order",
            "a refund|a replacement|the invoice|free shipping|the warranty card|store credit"
            "|a tracking link|the discount|an exchange|a callback",
        ),
    }
)
"""Per domain; the domains of the synthetic world are among these."""

MAX_LOOK = 8_000
"""Characters at the end of a prompt that are looked at to tell its domain."""

_WORD = re.compile(r"[a-z0-9+']+")
_MARK = re.compile(r"\[query ([^\n]+)\]")
_MAX_KEY = 512


def prompt(domain: str, rng: np.random.Generator) -> str:
    """Draw a prompt of a domain.

    Raises:
        KeyError: The domain has no vocabulary.
    """
    vocabulary = VOCABULARIES[domain]
    picks = (vocabulary.templates, vocabulary.a, vocabulary.b, vocabulary.c)
    template, a, b, c = (words[int(rng.integers(len(words)))] for words in picks)
    return f"{template.format(a=a, b=b, c=c)} (case {int(rng.integers(1_000_000))})"


def domain_of(text: str) -> str | None:
    """The domain whose own words the text uses most; None when it uses none."""
    words = _WORD.findall(text[-MAX_LOOK:].lower())
    hits = {domain: sum(word in own for word in words) for domain, own in _OWN.items()}
    best = max(hits, key=lambda domain: hits[domain])
    return best if hits[best] else None


def key_of(text: str) -> str:
    """What identifies the query: its last line ``[query <id>]``, or else a hash of the text."""
    last = text.rstrip()[-_MAX_KEY:].rpartition("\n")[2]
    mark = _MARK.fullmatch(last)
    return mark[1] if mark else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def with_key(text: str, key: str) -> str:
    """The text with a last line by which :func:`key_of` finds the key again."""
    return f"{text}\n[query {key}]"


def _own_words() -> dict[str, frozenset[str]]:
    """Per domain, the words that no other domain has."""
    every = {
        domain: frozenset(_WORD.findall(" ".join((*v.templates, *v.a, *v.b, *v.c)).lower()))
        for domain, v in VOCABULARIES.items()
    }
    return {
        domain: words - frozenset().union(*(w for d, w in every.items() if d != domain))
        for domain, words in every.items()
    }


_OWN = _own_words()
