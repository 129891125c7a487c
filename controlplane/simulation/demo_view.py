"""What the demo shows: the champion beside the best fixed arm and chance, and each verdict."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from controlplane.simulation.demo_client import POLICY, Client
from controlplane.simulation.tally import Comparison, Tally, Truth, compare

RECENT = 300
"""Requests that the moving figures are of."""
BASE = f"/v1/policies/{POLICY}"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version that came to serve: after how long, and from which request on."""

    version: int
    learner: str
    after_s: float
    request: int


@dataclass(slots=True)
class Progress:
    """All that the demo has seen."""

    tally: Tally
    began: float = field(default_factory=time.monotonic)
    status: dict[str, Any] = field(default_factory=dict)
    champion: int = 1
    promotions: list[Promotion] = field(default_factory=list)
    verdicts: int = 0
    _seen: set[str] = field(default_factory=set)

    @property
    def elapsed_s(self) -> float:
        """Since the traffic began."""
        return time.monotonic() - self.began

    async def look(self, client: Client) -> list[str]:
        """Ask the control plane what is new; returns a line for each verdict and promotion."""
        self.status = await client.get(f"{BASE}/status")
        lines = []
        found = await client.get(f"{BASE}/verdicts?limit=20")
        for verdict in reversed(found["items"]):
            if verdict["id"] not in self._seen:
                self._seen.add(verdict["id"])
                self.verdicts += 1
                lines.append(self._verdict_line(verdict))
        champion = self.status["champion"]["version"]
        if champion != self.champion:
            self.champion = champion
            version = await client.get(f"{BASE}/versions/{champion}")
            promotion = Promotion(champion, version["learner"], self.elapsed_s, self.tally.requests)
            self.promotions.append(promotion)
            lines.append(
                f"[bold green]{self._clock()}  version {champion} ({promotion.learner}) "
                "is the champion now[/]"
            )
        return lines

    def _verdict_line(self, verdict: dict[str, Any]) -> str:
        mark = "[green]passed[/]" if verdict["passed"] else "[yellow]refused[/]"
        return (
            f"{self._clock()}  {mark}  version {verdict['version']} "
            f"({verdict.get('learner', '?')}): {escape(verdict['summary'])}"
        )

    def _clock(self) -> str:
        return f"{self.elapsed_s:5.0f} s"


def recent(progress: Progress) -> list[Truth]:
    """The newest graded requests."""
    return list(progress.tally.truths)[-RECENT:]


def line(progress: Progress) -> str:
    """One line for a log."""
    rows = recent(progress)
    comparison = compare(rows)
    if comparison is None:
        return f"{progress.elapsed_s:5.0f} s  waiting for the first answers"
    shares = "  ".join(f"{arm} {share:.0%}" for arm, share in _shares(rows))
    return (
        f"{progress.elapsed_s:5.0f} s  {progress.tally.requests} requests  "
        f"champion v{progress.champion}: reward {comparison.served:.3f}  "
        f"best fixed ({comparison.best_fixed}) {comparison.fixed[comparison.best_fixed]:.3f}  "
        f"random {comparison.random:.3f}  cost ${_cost(rows):.5f}  | {shares}"
    )


def table(progress: Progress) -> Table:
    """The live view."""
    rows = recent(progress)
    tally = progress.tally
    found = Table(
        title=f"{progress.elapsed_s:.0f} s · {tally.requests} requests · "
        f"{sum(tally.errors.values())} errors · champion v{progress.champion} · "
        f"{progress.status.get('log_position', 0)} interactions, next round at "
        f"{progress.status.get('next_round_position', '?')}",
        title_justify="left",
    )
    for name in ("policy", f"reward (last {RECENT})", "cost a request", "arms"):
        found.add_column(name)
    comparison = compare(rows)
    if comparison is None:
        return found
    shares = "  ".join(f"{arm} {share:.0%}" for arm, share in _shares(rows))
    best = comparison.best_fixed
    found.add_row(
        f"[bold]served: v{progress.champion}[/]", _bar(comparison.served),
        f"${_cost(rows):.5f}", shares,
    )  # fmt: skip
    found.add_row("best fixed arm", _bar(comparison.fixed[best]), "", f"{best} 100%")
    found.add_row("random", _bar(comparison.random), "", "each alike")
    found.add_row("best arm a domain, in hindsight", _bar(comparison.per_domain), "", "")
    return found


def summary(progress: Progress) -> str:
    """What happened, in a few lines."""
    tally = progress.tally
    errors = sum(tally.errors.values())
    head = f"{progress.elapsed_s:.0f} s: {tally.requests:,} requests, {errors} errors"
    lines = [
        f"\n[bold]{head}, {progress.verdicts} verdicts[/]",
        *_stored(progress),
    ]
    if not progress.promotions:
        lines.append("  no version has beaten the first one yet: give it longer")
        return "\n".join(lines)
    lines.extend(
        f"  version {one.version} ({one.learner}) came to serve after {one.after_s:.0f} s"
        for one in progress.promotions
    )
    first = progress.promotions[0]
    after = [truth for truth in tally.truths if truth.request > first.request]
    comparison = compare(after)
    if comparison is not None:
        lines.extend(_compared(comparison, after))
    return "\n".join(lines)


def _stored(progress: Progress) -> list[str]:
    """What became of it all; the users hold some grades back, repeat some, and are late."""
    counts, feedback = progress.status.get("counts", {}), progress.tally.feedback
    taken = feedback["accepted"] + feedback["pending_join"]
    decisions = (
        f"{counts.get('decisions', 0):,} stored, {counts.get('joined', 0):,} joined, "
        f"{counts.get('unrewarded', 0):,} of them never graded by their users"
    )
    grades = (
        f"{taken:,} in time, {feedback['late']:,} late (it corrects the log), "
        f"{feedback['duplicate']:,} repeated (counted once), {feedback['lost']:,} lost, "
        f"{feedback['dropped']:,} not sent as the demo ended"
    )
    return [f"  decisions: {decisions}", f"  feedback: {grades}"]


def _compared(comparison: Comparison, rows: list[Truth]) -> list[str]:
    best = comparison.best_fixed
    gains = [row.reward - row.rewards[best] for row in rows]
    mean = sum(gains) / len(gains)
    variance = sum((gain - mean) ** 2 for gain in gains) / max(1, len(gains) - 1)
    error = math.sqrt(variance / len(gains))
    return [
        f"  since the first promotion, on the same {comparison.requests} requests, reward of",
        f"    what was served                  {comparison.served:.4f}",
        f"    the best fixed arm ({best})".ljust(37) + f"{comparison.fixed[best]:.4f}",
        f"    a random arm                     {comparison.random:.4f}",
        f"    the best arm of each domain      {comparison.per_domain:.4f}  (hindsight)",
        f"  served − best fixed: {mean:+.4f} ± {1.96 * error:.4f} (95 %)",
    ]


def _shares(rows: list[Truth]) -> list[tuple[str, float]]:
    counts = Counter(row.served for row in rows)
    return [(arm, n / len(rows)) for arm, n in counts.most_common()]


def _cost(rows: list[Truth]) -> float:
    return sum(row.cost_usd for row in rows) / len(rows)


def _bar(value: float) -> str:
    return f"{value:.3f} " + "█" * max(0, round(value * 20))
