"""Short texts word by word: the same findings as by whole arrays."""

import random

import pytest

from kernels.signals import brief, personal, suspicion
from kernels.signals.lexicon import PAIRS, WORDS
from kernels.signals.personal import CUES

PIECES = (
    *(word for listed in (*CUES.values(), *WORDS.values()) for word in listed.split()),
    *(pair for listed in PAIRS.values() for pair in listed.replace("\n", " ").split(",")),
    *("Ann", "Lee", "Ringvej", "Lund,7", "12", "221b", "5500", "4111111111111111", "x"),
    *("jane.roe@example.org", "+44 20 7946 0958", "DE89 3704 0044 0532 0130 00", "1999-04-03"),
    *("DE89370400440532013000", "GB00 1234", "192.168.0.1", "postgres://u:p4ssword@db:5432/x"),
    *(
        "passport no X1234567",
        "zip 12345",
        "born on 3.4.1981",
        "call 020 7946 0958",
        "my name is Ann",
    ),
    *("visa 4111 1111 1111 1111", "ID 33-A 7781", "(Flat 3)", "postcode: 90210", "née Roe"),
    *("<|system|>", "[INST]", "<<SYS>>", "e" * 70, "k" * 20, "3 Elm Street", "it's", "a:b:c"),
)
JOINS = (
    " ",
    " ",
    " ",
    " ",
    ", ",
    ". ",
    ".",
    "! ",
    '."  ',
    "?) ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " - ",
)


def written(draw: random.Random) -> str:
    text = ""
    for _ in range(draw.randrange(1, 60)):
        piece = draw.choice(PIECES)
        text += draw.choice((piece, piece, piece.title(), piece.upper())) + draw.choice(JOINS)
    return text.encode("ascii", "ignore").decode()[: draw.randrange(1, brief.MOST)]


def test_a_short_text_shows_word_by_word_what_it_shows_by_arrays() -> None:
    draw = random.Random(5)
    seen: set[str] = set()
    told = suspicious = 0
    for _ in range(1500):
        text = written(draw)
        found = brief.read(text)
        if found is None:
            continue
        told += 1
        private, suspect = found
        assert private == personal.read(text), text
        by_arrays = suspicion.read(text)
        assert suspect.score == pytest.approx(by_arrays.score, abs=1e-12), text
        assert suspect.sentences == by_arrays.sentences, text
        seen |= set(private.counts)
        suspicious += suspect.sentences
    assert told > 1000
    # What is compared must be there to be compared.
    assert suspicious > 100
    assert seen == set(personal.CERTAINTY)


@pytest.mark.parametrize("text", ["", "naïve", "a" * 321, "b " * brief.MOST])
def test_what_is_not_plain_and_short_is_left_to_the_arrays(text: str) -> None:
    assert brief.read(text) is None


@pytest.mark.parametrize("text", [" ", ".", "\n", "\n\n\r\n", "...", "\x00", "A", "1", "@:", "a\n"])
def test_what_holds_next_to_nothing_is_read(text: str) -> None:
    found = brief.read(text)
    assert found is not None
    assert found[0] == personal.read(text)
    assert found[1].score == pytest.approx(suspicion.read(text).score, abs=1e-12)
