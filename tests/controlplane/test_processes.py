"""A process that is started is on the books before Ctrl-C is heard."""

import os
import signal
from collections.abc import Iterator

import pytest

from controlplane.processes import whole


@pytest.fixture
def terminal() -> Iterator[None]:
    """Ctrl-C interrupts, also where these tests run in a background that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_waits_until_the_block_is_done() -> None:
    books: list[str] = []

    def spawn() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "process"

    def start() -> None:
        with whole():
            books.append(spawn())
        books.append("went on")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert books == ["process"]


def test_the_handlers_are_what_they_were() -> None:
    before = [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with whole():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    after = [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before
