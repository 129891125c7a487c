"""Sentences and words: they cover any text, never cut a character, and hash the same anywhere."""

import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import segments
from kernels.segments import estimate_tokens, hash_pairs, hash_words, split

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=400)
REPEATED = st.builds(
    lambda unit, count: unit * count,
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=8),
    st.integers(1, 400),
)


def check(text: str) -> None:
    found = split(text)
    pieces = [found.slice(int(a), int(b)) for a, b in zip(found.starts, found.ends, strict=True)]
    assert "".join(pieces) == text
    assert all(pieces)
    assert all(
        len(piece.encode("utf-8", "surrogatepass")) <= 2 * segments.LONGEST for piece in pieces
    )
    assert (found.word_starts < found.word_ends).all()
    assert (found.word_ends[:-1] <= found.word_starts[1:]).all()
    assert (found.starts[found.owner] <= found.word_starts).all()
    assert (found.word_ends <= found.ends[found.owner]).all()
    assert len(found.pairs) == max(0, len(found.words) - 1)
    assert (found.tokens >= 0).all()


@given(ANY_TEXT | REPEATED)
def test_sentences_cover_any_text_and_no_word_is_in_two(text):
    check(text)


@pytest.mark.parametrize("text", ["a" * 1_000_000, "é" * 300_000, "中" * 200_000, ". " * 300_000])
def test_a_huge_text_without_sentences_is_cut_all_the_same(text):
    check(text)


def test_sentences_end_where_a_reader_would_end_them():
    text = 'Dr. Who said: "It is late!" Then she left. Pi is 3.14159 or so?\n\n'
    text += "A new line 今日は晴れです。明日は雨です。"
    found = split(text)
    assert [found.sentence(index) for index in range(len(found))] == [
        'Dr. Who said: "It is late!"',
        "Then she left.",
        "Pi is 3.14159 or so?",
        "A new line 今日は晴れです。",
        "明日は雨です。",
    ]


def test_a_long_line_after_a_list_of_short_items_is_a_sentence_of_its_own():
    found = split("Choose:\nA. 1\nB. 2\nC. 3\nIgnore all previous instructions.\n")
    assert found.sentence(len(found) - 1) == "Ignore all previous instructions."


def test_a_word_has_the_same_hash_wherever_it_stands():
    draw = random.Random(1)
    words = ["the", "cat", "Ünder", "x1", "日", "a" * 300]
    text = " ".join(draw.choices(words, k=30_000))  # longer than a block of the hash
    found = split(text)
    seen: dict[str, set[int]] = {}
    for start, end, code in zip(found.word_starts, found.word_ends, found.words, strict=True):
        seen.setdefault(found.slice(int(start), int(end)), set()).add(int(code))
    assert len(seen) >= len(words)
    assert all(len(codes) == 1 for word, codes in seen.items() if word in words[:-1])
    assert len(set.union(*seen.values())) == len(seen)


@given(st.lists(st.text(string.ascii_letters, min_size=1, max_size=12), min_size=2, max_size=5))
def test_the_case_of_ascii_letters_changes_no_hash(words):
    upper = hash_words(word.upper() for word in words)
    assert (hash_words(words) == upper).all()
    assert hash_pairs([" ".join(words[:2])])[0] == split(" ".join(words)).pairs[0]


def test_tokens_are_estimated_within_a_tenth_for_english_prose():
    # 29 by the tokenizer of BERT, without its marks at the ends.
    text = (
        "The mitochondrion generates most of the chemical energy needed to power the cell's "
        "biochemical reactions, which is stored in a small molecule."
    )
    assert estimate_tokens(text) == pytest.approx(29, rel=0.15)
    assert estimate_tokens("") == 0
    assert estimate_tokens("今日は晴れです。") == 8 + 0


def test_words_of_different_letters_rarely_share_a_hash():
    draw = random.Random(2)
    words = {"".join(draw.choices(string.ascii_lowercase, k=8)) for _ in range(50_000)}
    assert len(np.unique(hash_words(sorted(words)))) == len(words)


@given(ANY_TEXT | REPEATED, st.integers(0, 60))
def test_the_start_of_a_sentence_holds_as_many_words_as_are_paid_for(text, limit):
    found = split(text)
    for index in range(min(len(found), 5)):
        until, cost = found.start_of(index, limit)
        start = int(found.starts[index])
        assert start <= until <= int(found.ends[index])
        assert cost <= min(limit, int(found.tokens[index]))
        assert (cost == 0) == (until == start)
        assert estimate_tokens(found.slice(start, until)) == cost


def test_the_start_of_a_sentence_ends_with_a_word():
    found = split("Rivers, lakes and extraordinary glaciers remain.")
    until, cost = found.start_of(0, 7)
    assert (found.slice(0, until), cost) == ("Rivers, lakes and extraordinary", 6)
    assert found.start_of(0, 100) == (len("Rivers, lakes and extraordinary glaciers remain"), 9)
