"""Grams: one vector for a text on any machine, of length 1, and near for near texts."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.signals import grams

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


@given(ANY_TEXT)
def test_the_vector_of_any_text_has_length_one_or_is_zero(text):
    found = grams.read(text)
    assert found.shape == (grams.SIZE,)
    assert found.dtype == np.float32
    length = float(np.linalg.norm(found.astype(np.float64)))
    assert length == pytest.approx(1.0, abs=1e-5) or length == 0.0
    if len(text.split()) > 3:
        assert length > 0.0


@given(ANY_TEXT)
def test_case_of_ascii_letters_and_the_amount_of_space_change_nothing(text):
    lower = "".join(char.lower() if char.isascii() else char for char in text)
    spaced = f"\n {lower} ".replace(" ", " \t\n")
    assert (grams.read(spaced) == grams.read(text)).all()


def test_the_bytes_are_the_same_on_every_machine():
    text = "Prove that 2+2=4? naïve Größe 中文 def f(): return {};\n" * 500
    digest = hashlib.sha256(grams.read(text).astype("<f4").tobytes()).hexdigest()
    assert digest == "bb8126e2ce4f6ae21ded5d2d1a21a8fb9342dd45d32192f4a6bd977f31a5c79a"


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=6), st.integers(1, 9))
@settings(deadline=None)
def test_blocks_change_no_count(unit, extra):
    text = unit * (20_000 // len(unit) + extra)
    data = grams._plain(text)
    codes = np.zeros(256, np.int64)
    for at in range(0, len(data), 1_000):
        # Parts that share their last four bytes with the next hold each gram once.
        part = data[at : at + 1_004]
        whole = grams._count(part, 256)
        rest = grams._count(part[1_000:], 256) if len(part) > 1_000 else 0
        codes += whole - rest
    assert (grams._count(data, 256) == codes).all()


def test_texts_of_one_subject_are_nearer_than_others():
    one = grams.read("How do I reset the password of my bank account?")
    two = grams.read("I cannot remember my banking password, please reset it")
    other = grams.read("Which glacier is the longest one in the Himalaya mountains?")
    assert one @ two > 2 * abs(one @ other)


def test_a_long_text_is_read_from_both_ends():
    middle = "x" * 200_000
    assert (grams.read("a" + middle + "z") != grams.read("b" + middle + "z")).any()
    assert (grams.read("a" + middle + "z") != grams.read("a" + middle + "y")).any()


@pytest.mark.parametrize("size", [0, 1, 3, 1000, 131_072])
def test_a_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        grams.read("text", size=size)
