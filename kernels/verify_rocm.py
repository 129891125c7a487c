"""What is claimed of AMD cards, checked on the card of whoever runs this.

``make verify-rocm`` (or ``python -m kernels.verify_rocm [--json] [--objects DIR]``) says PASS, FAIL
or SKIP of each claim, with figures. SKIP means that it could not be tried here, and why: without an
AMD card all are skipped. The exit code is 1 where a claim has failed, and 0 otherwise.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kernels.rocm_claims import CLAIMS, Claim, Figures, Machine, Refuted, Skipped

Status = Literal["PASS", "FAIL", "SKIP"]
MAX_REASON = 2_000
"""Characters of a library's own words that are kept."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one claim. ``reason`` is empty for PASS."""

    claim: str
    says: str
    status: Status
    reason: str = ""
    figures: Figures = field(default_factory=dict)


def verify(
    machine: Machine,
    claims: Sequence[Claim] = CLAIMS,
    *,
    say: Callable[[Verdict], object] = lambda _: None,
) -> list[Verdict]:
    """Try each claim, in order; what one raises is its own failure, and the next is tried."""
    found = []
    for claim in claims:
        found.append(judge(claim, machine))
        say(found[-1])
    return found


def judge(claim: Claim, machine: Machine) -> Verdict:
    """Try one claim. Without an AMD card it is skipped, whatever it would find."""
    if not machine.targets:
        return Verdict(claim.name, claim.says, "SKIP", machine.why_no_card())
    try:
        figures = claim.check(machine)
    except Skipped as skipped:
        return Verdict(claim.name, claim.says, "SKIP", str(skipped))
    except Refuted as refuted:
        return Verdict(claim.name, claim.says, "FAIL", str(refuted), refuted.figures)
    except Exception as error:  # noqa: BLE001 -- drivers raise classes of their own, none shared
        reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
        return Verdict(claim.name, claim.says, "FAIL", reason)
    return Verdict(claim.name, claim.says, "PASS", figures=figures)


def line(verdict: Verdict) -> str:
    """A verdict for a person."""
    figures = ", ".join(f"{name} {_shown(value)}" for name, value in verdict.figures.items())
    details = "; ".join(part for part in (verdict.reason, figures) if part)
    return f"{verdict.status}  {verdict.claim}: {verdict.says}\n      {details}".rstrip()


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(found: Sequence[Verdict]) -> str:
    counts = {
        status: sum(one.status == status for one in found) for status in ("PASS", "FAIL", "SKIP")
    }
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def main(
    argv: Sequence[str] | None = None,
    *,
    machine: Machine | None = None,
    claims: Sequence[Claim] = CLAIMS,
) -> int:
    """The command line; 1 where a claim has failed."""
    parser = argparse.ArgumentParser(prog="python -m kernels.verify_rocm", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument(
        "--objects", type=Path, metavar="DIR", help="what kernels.aot wrote; default: build it"
    )
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        here = machine or Machine(scratch=Path(scratch), objects=given.objects)
        with here:
            say = (lambda _: None) if given.json else (lambda one: _print(line(one)))
            found = verify(here, claims, say=say)
    if given.json:
        about = {"machine": platform.platform(), "python": platform.python_version()}
        verdicts = [asdict(one) for one in found]
        _print(json.dumps({**about, "targets": here.targets, "verdicts": verdicts}, indent=2))
    else:
        _print(_summary(found))
    return 1 if any(one.status == "FAIL" for one in found) else 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
