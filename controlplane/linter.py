"""The policy linter: what is wrong or odd about a policy, before it is published. Pure.

It reads what is declared and what is known of recent decisions; it never publishes, refuses or
mends anything. What it looks for: arms that are never eligible or never chosen, exploration
included; arms without cards; caps, gates and guardrails that cross each other; guards of heads that
leave no arm where they hold together; settings that name an arm, a feature, a metric or a source
which is not there; exploration below the floor; parts of the reward without data.

A policy here has no rules that match prompts: what bounds and decides are the reward's caps and
gates, the heads' guards, the release's guardrails and the learners' budgets. Its roles are the
fallback arm, the small and the large arm of learners that go by price, and whom a shadow asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.lint_arms import lint_arms
from controlplane.lint_guards import lint_guards
from controlplane.lint_rewards import lint_rewards
from controlplane.lint_subject import Counts, Finding, Subject

__all__ = ["Counts", "Finding", "Lint", "Subject", "lint"]


@dataclass(frozen=True, slots=True)
class Lint:
    """All that was found, errors first."""

    findings: Sequence[Finding]

    @property
    def errors(self) -> Sequence[Finding]:
        """Those that nobody means."""
        return [one for one in self.findings if one.severity == "error"]

    def as_json(self) -> dict[str, Any]:
        """Plain form for an API answer."""
        errors = len(self.errors)
        return {
            "errors": errors,
            "warnings": len(self.findings) - errors,
            "findings": [one.as_json() for one in self.findings],
        }


def lint(subject: Subject) -> Lint:
    """Look at a policy by every rule."""
    found = [*lint_arms(subject), *lint_guards(subject), *lint_rewards(subject)]
    return Lint(sorted(found, key=lambda one: one.severity))  # "error" before "warning", stable
