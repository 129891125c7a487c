import json
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.kernels_attention import SENTENCES
from kernels.signals import tokens
from kernels.signals.tokens import Tokens
from tests.kernels.encoders import minilm

PATH = minilm().folder / "tokenizer.json"


@cache
def opened() -> Tokens:
    return Tokens(PATH)


@cache
def library() -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer.from_file(str(PATH))
    found.no_padding()
    found.no_truncation()
    return found


def wanted(text: str) -> list[int]:
    return list(library().encode(text, add_special_tokens=False).ids)


PLAIN = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=80)
WORDY = st.lists(
    st.sampled_from(
        ["The", "unhappily", "x2", "don't", "[SEP]", "a_b", "##ing", "\t", "\x1f", "café"]
    )
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(PLAIN, WORDY, st.text(max_size=60)))
def test_any_text_has_the_ids_that_the_library_gives_it(text: str):
    assert opened().ids(text) == wanted(text)


@pytest.mark.parametrize("text", SENTENCES)
def test_real_sentences_have_the_ids_that_the_library_gives_them(text: str):
    assert opened().ids(text) == wanted(text)
    assert opened().ids(text) == wanted(text)  # now from the words that are kept


def test_a_text_of_unknown_words_is_left_to_the_library():
    text = " ".join(f"zq{at}xv" for at in range(tokens.MOST_ASKED + 1))
    fresh = Tokens(PATH)
    assert fresh.ids(text) == wanted(text)
    assert len(fresh._pieces) == tokens.MOST_ASKED


def test_words_that_are_kept_have_a_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "MOST_KEPT", 2)
    fresh = Tokens(PATH)
    for at in range(5):
        assert fresh.ids(f"zq{at}xv") == wanted(f"zq{at}xv")
    assert len(fresh._pieces) == 2


def test_endless_words_are_not_kept():
    fresh = Tokens(PATH)
    text = f"zq7xv {'q' * 3000}"
    assert fresh.ids(text) == wanted(text)
    assert list(fresh._pieces) == ["zq7xv"]


def test_another_kind_of_tokeniser_is_asked_every_text(tmp_path: Path):
    spec = json.loads(PATH.read_text())
    spec["normalizer"]["lowercase"] = False
    path = tmp_path / "cased.json"
    path.write_text(json.dumps(spec))
    assert Tokens(path).ids("The Cat") != opened().ids("The Cat")


def test_of_a_long_text_both_ends_are_framed():
    assert opened().framed([1, 2, 3, 4, 5, 6, 7], 6) == [101, 1, 2, 6, 7, 102]
    assert opened().framed([1, 2, 3, 4, 5, 6, 7], 7) == [101, 1, 2, 3, 6, 7, 102]
    assert opened().framed([1, 2, 3, 4, 5], 7) == [101, 1, 2, 3, 4, 5, 102]
    assert opened().framed([1, 2, 3], 2) == [101, 102]


def test_ids_are_cut_to_the_limit_less_the_frame():
    assert opened().ids("word " * 100, limit=12) == wanted("word " * 10)
    assert opened().framed(opened().ids("one two"), 12) == library().encode("one two").ids


def test_lone_surrogates_are_read_as_marks():
    assert opened().ids("a \ud800 b") == wanted("a ? b")


def test_a_file_that_is_no_tokeniser_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no tokeniser"):
        Tokens(path)
