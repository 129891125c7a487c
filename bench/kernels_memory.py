"""One model, one length, in a process of its own: peak memory of a run, and its time.

``python -m bench.kernels_memory MODEL TOKENS RUNS`` prints ``{"above_mib": …, "seconds": …}``:
how far the resident memory rises above what it is with the model loaded and one short text run,
and the median processor time of the runs, which use one thread: other programs on the machine
change that less than the time on the clock. Linux only: the peak is reset through ``/proc``.
"""

import json
import statistics
import sys
from pathlib import Path
from time import process_time

import numpy as np

from kernels.providers import choose

SHORT = 16
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def measure(model: Path, tokens: int, runs: int) -> dict[str, float]:
    session = choose(model, wanted=["cpu"]).session
    names = {one.name for one in session.get_inputs()}
    rng = np.random.default_rng(0)

    def run(length: int) -> None:
        ids = rng.integers(1000, 30_000, (1, length))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found = session.run(None, {name: feed[name] for name in names})[0]
        assert np.isfinite(found).all()

    run(SHORT)
    CLEAR.write_text("5")  # the peak starts anew from here
    before = _kib("VmRSS")
    times = []
    for _ in range(runs):
        started = process_time()
        run(tokens)
        times.append(process_time() - started)
    return {"above_mib": (_kib("VmHWM") - before) / 1024, "seconds": statistics.median(times)}


def _kib(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
