"""Signals: bounded and finite for any text, and the same in every process."""

import json
import math
import random
import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.signals import text as signals
from learners.features import Schema

HUGE = 1_000_000
SCHEMA = Schema.from_json(signals.SIGNAL_SCHEMA)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates too

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
content_parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": ANY_TEXT})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": json_values})
    | json_values,
    max_size=4,
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool"]) | json_values,
            "content": ANY_TEXT | content_parts | json_values,
        }
    )
    | json_values,
    max_size=6,
)


def check_bounds(found: signals.Signals) -> None:
    for name in ("chars", "words"):
        value = found[name]
        assert isinstance(value, float)
        assert 0.0 <= value < 40.0
    for name in ("digits", "maths"):
        value = found[name]
        assert isinstance(value, float)
        assert 0.0 <= value <= 1.0
    for name in ("code", "question"):
        assert isinstance(found[name], bool)
    terms = found["terms"]
    assert isinstance(terms, list)
    assert len(terms) == signals.TERMS
    norm = math.sqrt(sum(term * term for term in terms))
    assert norm == 0.0 or norm == pytest.approx(1.0)
    encoded = SCHEMA.encode(found)
    assert all(math.isfinite(value) and abs(value) <= 10.0 for value in encoded)


@given(ANY_TEXT)
def test_the_signals_of_any_text_are_bounded_and_can_be_encoded(text):
    check_bounds(signals.read(text))


@given(ANY_TEXT)
def test_the_same_text_gives_the_same_signals(text):
    assert signals.read(text) == signals.read(text)


@given(messages)
def test_messages_of_any_form_are_read_and_never_refused(found):
    check_bounds(signals.read_messages(found))


@given(st.text(string.ascii_letters + " ", min_size=1, max_size=200))
def test_a_plain_message_and_its_content_part_mean_the_same(text):
    plain = signals.read_messages([{"role": "user", "content": text}])
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert signals.read_messages([{"role": "user", "content": parts}]) == plain
    expected = {**signals.read(text), "turns": math.log1p(1)}
    assert plain == expected


def test_signals_are_the_same_in_other_processes():
    text = "Prove that 2+2=4? naïve Größe 中文 def f(): return {};\n"
    code = f"import json; from kernels.signals.text import read; print(json.dumps(read({text!r})))"
    for seed in ("0", "1"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            timeout=60,
        )
        assert json.loads(found.stdout) == signals.read(text)


def test_only_the_user_is_read_where_the_user_speaks():
    chat = [
        {"role": "system", "content": "You are helpful"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "def answer(): ..."},
        {"role": "user", "content": [{"type": "text", "text": "second?"}]},
    ]
    found = signals.read_messages(chat)
    assert found == {**signals.read("first\nsecond?"), "turns": math.log1p(2)}
    alone = signals.read_messages(chat[:1])
    assert alone == {**signals.read("You are helpful"), "turns": 0.0}


def test_no_text_gives_zeros():
    for nothing in ([], [{"role": "user", "content": ""}], [{"role": "user"}], [None, 3, "x"]):
        found = signals.read_messages(nothing)
        assert found["chars"] == found["words"] == found["digits"] == found["maths"] == 0.0
        assert found["terms"] == [0.0] * signals.TERMS
        assert found["code"] is found["question"] is False


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx\n```", True),
        ("def f(x):", True),
        ("items.map(x => x + 1)", True),
        ("call main() now", True),
        ("SELECT name FROM users", True),
        ("a plain sentence; with a semicolon", False),
        ("the class of 1999 and its import duties", False),
    ],
)
def test_code_is_told_from_prose(text, code):
    assert signals.read(text)["code"] is code


@pytest.mark.parametrize("word", ["def f", "class A", "import os", "#include <x>", "SELECT 1"])
def test_the_indentation_of_code_ends_with_its_line(word):
    # A run that crossed lines would be scanned anew from each of them: quadratic in blank lines.
    for blank in ("\n" * 50, "\r\n" * 50, " \n\t\n" * 50):
        found = signals._CODE.search(f"a{blank} \t{word}")
        assert found is not None
        assert "\n" not in found.group()
    assert signals.read("\n \n" * 1000)["code"] is False


def test_shares_and_counts_are_those_of_the_text():
    found = signals.read("1 + 1 = 2?")
    assert found["digits"] == pytest.approx(0.3)
    assert found["maths"] == pytest.approx(0.2)
    assert found["question"] is True
    assert found["chars"] == pytest.approx(math.log1p(10))
    assert signals.read("two words")["words"] == pytest.approx(math.log1p(2))


@pytest.mark.parametrize("piece", ["word ", "x", "1", " ", "\n", "(", "a() ", "中", "{\n", "<"])
def test_a_huge_text_is_read_at_its_ends_only(piece):
    head, tail = "first " + piece * signals.HEAD, piece * signals.TAIL + "the question at the end?"
    found = signals.read(head + piece * HUGE + tail)
    check_bounds(found)
    assert found["question"] is True
    assert found["chars"] == pytest.approx(math.log1p(len(head + tail) + HUGE * len(piece)))
    ends = signals.read(f"{head[: signals.HEAD]}\n{tail[-signals.TAIL :]}"[: signals.HEAD + 1_000])
    for name in ("digits", "maths", "code"):
        assert found[name] == pytest.approx(ends[name], abs=1e-3)
    assert signals.read(head + "?" * HUGE + tail)["terms"] == found["terms"]


def test_more_messages_than_the_limit_leave_the_newest():
    chat = [{"role": "user", "content": f"old {i}"} for i in range(1_000)]
    found = signals.read_messages(chat)
    newest = signals.read_messages(chat[-signals.MAX_MESSAGES :])
    assert found == newest
    assert found["turns"] == pytest.approx(math.log1p(signals.MAX_MESSAGES))


@pytest.mark.parametrize("role", ["tool", "function"])
def test_guards_read_what_tools_brought_and_signals_do_not(role):
    chat = [
        {"role": "system", "content": "You are helpful"},
        {"role": "user", "content": "first"},
        {"role": "developer", "content": "Be brief"},
        {"role": role, "content": [{"type": "text", "text": "a"}, "page", {"text": 3}]},
        {"role": "assistant", "content": "It says a page"},
        {"role": "user", "content": "second"},
    ]
    assert signals.guarded_texts(chat) == ["first", "a\npage", "second"]
    assert signals.user_turns(chat) == (["first", "second"], 2)


def test_guards_read_every_message_however_many_there_are():
    chat = [{"role": "user", "content": f"old {i}"} for i in range(1_000)]
    assert signals.guarded_texts(chat) == [f"old {i}" for i in range(1_000)]
    tools = [chat[0], *[{"role": "tool", "content": f"page {i}"} for i in range(1_000)]]
    assert len(signals.guarded_texts(tools)) == 1_001


def test_guards_read_all_roles_where_no_user_speaks():
    chat = [{"role": role, "content": role} for role in ("system", "tool", "assistant")] * 200
    assert signals.guarded_texts(chat) == ["system", "tool", "assistant"] * 200


@given(messages)
def test_guards_are_given_texts_of_messages_of_any_form(found):
    texts = signals.guarded_texts(found)
    assert all(texts)
    said, users = signals.user_turns(found)
    assert not users or set(said) <= set(texts)


def test_words_of_one_kind_lie_nearer_than_words_of_another():
    def terms(text: str) -> list[float]:
        found = signals.read(text)["terms"]
        assert isinstance(found, list)
        return found

    def likeness(a: str, b: str) -> float:
        return sum(x * y for x, y in zip(terms(a), terms(b), strict=True))

    law = "Does the plaintiff remain liable under the lease"
    assert likeness(law, "Is the plaintiff liable for the lease") > 0.5
    assert abs(likeness(law, "Compose a poem about autumn leaves")) < 0.4


CODE_PIECES = (
    *("def f", "class A", "import os", "from a import b", "#include <x>", "public int", "SELECT 1"),
    *("```", "x()", "a;", "{", "=>", "</b>", "self.x", "function g", "()", "from", "class", "word"),
    *("plain", "prose", "class of", "imported", "a; b", "x (y)", "< /b", "himself", "public") * 3,
)


def test_what_looks_for_code_fast_misses_none() -> None:
    draw = random.Random(3)
    seen = 0
    for _ in range(4000):
        pieces = [draw.choice(CODE_PIECES) + draw.choice((" ", "\n", " \n", "")) for _ in range(3)]
        part = "".join(pieces)
        looks = signals._CODE.search(part) is not None
        assert signals.read(part)["code"] == looks, part
        seen += looks
    assert 400 < seen < 3600
