"""What the benchmark of texts takes for memory."""

import pytest

module = pytest.importorskip("bench.kernels_text")  # which opens models, an extra


def test_the_peak_is_of_the_call_alone_and_of_what_it_holds_at_once():
    held = bytearray(4 << 20)

    def work() -> int:
        first = bytearray(1 << 20)
        del first
        second, third = bytearray(1 << 20), bytearray(1 << 19)
        return len(second) + len(third)

    found = module.peak_bytes(work)
    assert len(held) == 4 << 20
    assert found == pytest.approx((1 << 20) + (1 << 19), rel=0.01)
