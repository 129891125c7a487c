"""Whether the judging part of a log can be believed, whoever is judged on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from controlplane.config import GateConfig
from learners import diagnostics
from learners.diagnostics import Finding
from learners.records import Interaction
from storage import log_facts
from storage.log_facts import LogFacts, Served
from storage.policies import StoredPolicy

MAX_SERVED = 20_000
"""The newest decisions, whose logged distributions are held against what they served."""


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What the tables say of the positions (cutoff, upto] beside the rows that judge.

    Attributes:
        cutoff: the newest position that trained anybody who is judged.
        wait_s: how long a reward is waited for.
        read_at: when it was read.
    """

    facts: LogFacts
    served: Served
    cutoff: int
    wait_s: float
    read_at: datetime

    @classmethod
    def read(
        cls,
        connection: sa.Connection,
        policy: StoredPolicy,
        rows: Sequence[Interaction],
        *,
        cutoff: int,
        upto: int,
        reward_version: int,
        now: datetime,
    ) -> "Background":
        """Of the judging rows; a decision that lies between them and is not joined is missed."""
        ids = [row.decision_id for row in rows]
        facts = log_facts.facts(
            connection,
            policy.id,
            positions=(cutoff, upto),
            ids=(min(ids), max(ids)) if ids else None,
            reward_version=reward_version,
        )
        served = log_facts.served(connection, policy.id, positions=(cutoff, upto), limit=MAX_SERVED)
        return cls(facts, served, cutoff, policy.wait_s, now)

    def findings(self, rows: Sequence[Interaction], gate: GateConfig) -> tuple[Finding, ...]:
        """What is found of these rows, which judge."""
        facts, served = self.facts, self.served
        position = np.array([row.position for row in rows], dtype=np.int64)
        return (
            diagnostics.newer(position, self.cutoff),
            diagnostics.duplicates([row.decision_id for row in rows]),
            diagnostics.calibration(
                served.distribution, served.action, served.arms, labels=served.version
            ),
            diagnostics.logging_changes(facts.version, most=gate.max_relogged),
            diagnostics.unweighed(facts.propensity, most=gate.max_unweighed),
            diagnostics.censored(facts.at, self.wait_s, facts.joined_at, most=gate.max_censored),
            diagnostics.unjoined(
                facts.due_at, len(facts.at), self.read_at.timestamp(), most=gate.max_unjoined
            ),
        )
