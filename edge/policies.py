"""What this edge serves: one bundle for each policy, swapped whole, and what it has refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge.errors import ProblemError
from learners.bundle import Bundle
from learners.records import Arm

RETRY_AFTER_S = 2

Fault = Literal["bundle", "edge"]


@dataclass(frozen=True, slots=True)
class Nack:
    """A bundle that this edge refused, and why.

    ``fault``: ``bundle`` where it computes otherwise here or is too large; ``edge`` where this edge
    does not know its format, trust its signature or believe its time.
    """

    policy: str
    serial: int
    reason: str
    fault: Fault


class Policies:
    """The active bundles. A swap is one assignment: a request sees the old one or the new one."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` are the policies that the edge is configured for."""
        self.names = tuple(names)
        self.nacks: dict[str, Nack] = {}
        self._bundles: dict[str, Bundle] = {}
        self._arms: dict[str, Arm] = {}

    @property
    def active(self) -> dict[str, Bundle]:
        """The bundles being served, by policy."""
        return dict(self._bundles)

    @property
    def missing(self) -> list[str]:
        """Configured policies that have no bundle yet."""
        return [name for name in self.names if name not in self._bundles]

    @property
    def arms(self) -> dict[str, Arm]:
        """Every arm of every active bundle, by name and by model; a name wins over a model."""
        return self._arms

    def swap(self, bundle: Bundle) -> None:
        """Serve this bundle from now on; what was refused before it is settled."""
        bundles = {**self._bundles, bundle.policy: bundle}
        every = [arm for one in bundles.values() for arm in one.arms]
        self._arms = {arm.model: arm for arm in every} | {arm.name: arm for arm in every}
        self._bundles = bundles
        self.settle(bundle.policy)

    def settle(self, policy: str) -> bool:
        """Forget what was refused; True when there was something."""
        return self.nacks.pop(policy, None) is not None

    def bundle(self, policy: str) -> Bundle:
        """The bundle to decide with.

        Raises:
            ProblemError: The policy is not configured here (404), or has no bundle yet (503).
        """
        found = self._bundles.get(policy)
        if found is not None:
            return found
        if policy not in self.names:
            raise ProblemError(
                404,
                "policy_not_found",
                f"policy {policy[:128]!r} is not served here",
                field="policy",
                value=policy[:128],
                remedy=f"use one of {list(self.names)}, or add it to POINTSMAN_EDGE_POLICIES",
            )
        raise ProblemError(
            503,
            "no_bundle",
            f"policy {policy!r} has no bundle yet: none is published, or none could be verified",
            retry_after_s=RETRY_AFTER_S,
            remedy="publish a version, or read this edge's log",
        )
