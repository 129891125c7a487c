"""Whether the judging part of a log can be believed, whoever is judged on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from controlplane.config import GateConfig, read_config
from learners import diagnostics
from learners.diagnostics import Finding
from learners.ope import paired
from learners.pairs import Pair
from learners.records import Interaction
from storage import log_facts, pairs
from storage.log_facts import LogFacts, Served
from storage.policies import StoredPolicy

MAX_SERVED = 10_000
"""The newest decisions, whose logged distributions are held against what they served."""


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What the tables say of the positions (cutoff, upto] beside the rows that judge.

    Attributes:
        pairs: requests of these rows that two arms have answered.
        cutoff: the newest position that trained anybody who is judged.
        wait_s: how long a reward is waited for.
        read_at: when it was read.
    """

    facts: LogFacts
    served: Served
    pairs: Sequence[Pair]
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
        positions: tuple[int, int],
        reward_version: int,
        now: datetime,
    ) -> "Background":
        """Of the judging rows, which lie at positions in (cutoff, upto].

        A decision that was made between them and is not joined is missed. Where sources correct
        the rewards, pairs are left out: theirs would be on another scale.
        """
        ids = [row.decision_id for row in rows]
        facts = log_facts.facts(
            connection,
            policy.id,
            positions=positions,
            ids=(min(ids), max(ids)) if ids else None,
            reward_version=reward_version,
        )
        served = log_facts.served(connection, policy.id, positions=positions, limit=MAX_SERVED)
        answered: Sequence[Pair] = ()
        if rows and read_config(policy.config).sources.plain:
            answered = pairs.read_pairs(
                connection,
                policy.id,
                reward_version=reward_version,
                since=min(row.at for row in rows),
                limit=paired.MOST,
            )
        return cls(facts, served, answered, positions[0], policy.wait_s, now)

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
