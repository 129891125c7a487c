"""The newest log as two versions read it, and all that is needed to judge them on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from controlplane import scorers
from controlplane.candidates import Log
from controlplane.config import PolicyConfig, read_config
from controlplane.grading import graded
from controlplane.log_checks import Background
from controlplane.revisions import told_apart
from controlplane.round_log import RoundLog, keeping, preferences
from controlplane.rounds import metrics_of
from feedback.imports import direct
from learners import diagnostics, ope
from learners.diagnostics import Finding
from learners.errors import ContextError
from learners.features import Schema
from learners.ope import Calibration, Evaluation, Imported, Interval, IntervalKind
from learners.records import Context, Estimate, Interaction
from learners.rewards import RewardFunction
from learners.scorers.base import Scorer
from learners.unseen import gain_seen
from storage import imported, log_facts, policies
from storage.imported import ImportedRow
from storage.log import stream
from storage.policies import StoredPolicy
from storage.versions import StoredVersion

MAX_ROWS = 20_000
"""Of the newest log: what a call answers within seconds."""
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Unweighed:
    """Imported rows that say no probability: the direct method alone can use them.

    Attributes:
        log: m rows, over the arms of the log beside which they stand.
        contexts: what each row's context holds of preferences, as :func:`mixes` reads it.
    """

    log: Imported
    contexts: list[Context]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.log)


@dataclass(frozen=True, slots=True)
class Bench:
    """Rows newer than the training of all whom they judge, as each of two versions reads them.

    Attributes:
        log: the rows.
        scorers: as each version serves.
        predicted: the reward model's rewards, the same for both.
        calibration: of that model, by requests that two arms have answered.
        background: what the tables say of the rows.
        unweighed: rows without a propensity, beside the others.
        reward: by which the rows are judged; None where there is none yet.
        episodes: how many decisions each episode of the rows has, judged or not.
        retries: of each decision that tried a request again, the one that had failed before.
        interval: how intervals are made.
        after: the position beyond which the rows lie.
        upto: the last position.
    """

    config: PolicyConfig
    log: Log
    scorers: tuple[Scorer, Scorer]
    predicted: Floats
    calibration: Calibration | None
    background: Background
    unweighed: Unweighed
    reward: RewardFunction | None
    episodes: dict[str, int]
    retries: dict[str, str]
    interval: Interval
    after: int
    upto: int

    @property
    def own(self) -> Floats:
        """The first version's probabilities, shape ``(n, K)``."""
        return self.log.distribution(self.log.log.x, self.scorers[0])

    @property
    def standing(self) -> Floats:
        """The second version's, shape ``(n, K)``."""
        return self.log.distribution(self.log.standing_x, self.scorers[1])

    def both(self) -> tuple[Evaluation, Evaluation]:
        """Both versions by the doubly robust estimator."""
        return (
            self.log.valued(self.own, self.predicted),
            self.log.valued(self.standing, self.predicted),
        )

    def direct(self) -> Evaluation:
        """The first version by the direct method, on the rows without a propensity too.

        Raises:
            EstimateError: There are no rows at all.
        """
        log, more = self.log.log, self.unweighed
        if not len(more):
            return ope.evaluate(
                log, self.own, "dm", predicted=self.predicted, clusters=self.log.clusters
            )
        names = ("x", "eligible", "action", "propensity", "reward")
        columns = {
            name: np.concatenate([getattr(log, name), getattr(more.log, name)]) for name in names
        }
        clusters = self.log.clusters
        if clusters is not None:
            clusters = np.append(clusters, np.full(len(more), -1))
        distribution = self.log.spread(
            more.log.x, more.log.eligible, self.scorers[0], more.contexts
        )
        return ope.evaluate(
            Imported(log.arms, **columns),
            np.concatenate([self.own, distribution]),
            "dm",
            clusters=clusters,
        )

    def estimate(self, evaluation: Evaluation) -> Estimate:
        """With the interval that was asked for."""
        return ope.estimate(evaluation, level=LEVEL, interval=self.interval)

    def gap(self, first: Evaluation, second: Evaluation) -> tuple[Estimate, dict[str, Estimate]]:
        """First − second, paired, in all and in each of the largest segments."""
        spread = self.interval.reward_range
        whole = ope.difference(
            first, second, level=LEVEL, reward_range=spread, interval=self.interval
        )
        return whole, self.log.by_segment(
            first, second, self.config, LEVEL, spread, interval=self.interval
        )

    def findings(self, own: Evaluation) -> tuple[Finding, ...]:
        """Whether these rows can judge the first version."""
        least = self.config.gate.min_effective_n
        return (
            diagnostics.effective_size(own.weights, least=least, clusters=own.clusters),
            diagnostics.mean_weight(own),
            *self.log.diagnostics(self.own, own, self.config),
            gain_seen(self.log.log, self.own, self.standing, name="other version"),
            *self.background.findings(self.log.rows, self.config.gate),
        )


def read(
    connection: sa.Connection,
    policy: StoredPolicy,
    both: tuple[StoredVersion, StoredVersion],
    *,
    kind: IntervalKind,
    now: datetime,
) -> Bench:
    """The newest rows after the training of both, rewarded as a round would have them."""
    config = read_config(policy.config)
    arms = tuple(row["name"] for row in policies.list_arms(connection, policy.pool_id))
    upto = policy.log_position
    cutoff = max(one.data_to for one in both)
    after = max(cutoff, upto - min(MAX_ROWS, config.max_interactions))
    stored = policies.newest_reward(connection, policy.id)
    part = _Part(policy, (after, upto), stored[0] if stored else 0)
    reward = RewardFunction.from_json(stored[1]) if stored else None
    schemas = (scorers.schema_of(both[0]), scorers.schema_of(both[1]))
    rows = part.rows(connection, schemas)
    background = Background.read(
        connection,
        policy,
        rows.rows,
        positions=part.positions,
        reward_version=part.reward_version,
        now=now,
    )
    log = Log.of(part.judging(connection, rows, reward), arms, rows)
    names = sorted({row.episode_id for row in log.rows if row.episode_id is not None})
    served = [scorers.load(one).over(arms).floored(config.floor) for one in both]
    predicted, calibration = _model(log, background)
    return Bench(
        config,
        log,
        (served[0], served[1]),
        predicted,
        calibration,
        background,
        part.unweighed(connection, log, schemas[0]),
        reward,
        log_facts.episode_sizes(connection, policy.project_id, policy.id, names),
        log_facts.retries(connection, policy.id, positions=part.positions),
        Interval(kind, config.seed, float(np.ptp(log.log.reward)) if len(log.log) else 0.0),
        after,
        upto,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The positions (after, upto] of a policy's log, as one version of its reward has them."""

    policy: StoredPolicy
    positions: tuple[int, int]
    reward_version: int

    @property
    def config(self) -> PolicyConfig:
        """The policy's."""
        return read_config(self.policy.config)

    def rows(self, connection: sa.Connection, schemas: Sequence[Schema]) -> RoundLog:
        """Encoded by each of the schemas."""
        after, upto = self.positions
        batches = stream(
            connection,
            self.policy.id,
            after=after,
            upto=upto,
            limit=MAX_ROWS,
            reward_version=self.reward_version,
            kept=keeping(self.config.segment),
        )
        return RoundLog.read(batches, schemas, limit=max(upto - after, 0))

    def judging(
        self, connection: sa.Connection, rows: RoundLog, reward: RewardFunction | None
    ) -> list[Interaction]:
        """The rows with the rewards that their sources are worth, by the rows before them."""
        revised = policies.revised_arms(connection, self.policy.pool_id)
        older = [] if self.config.sources.plain else self._older(connection)
        said = graded(
            self.config.sources,
            reward,
            metrics_of(connection, self.policy),
            training=told_apart(older, revised),
            newer=told_apart(rows.rows, revised),
        )
        return said.newer

    def _older(self, connection: sa.Connection) -> list[Interaction]:
        after = self.positions[0]
        batches = stream(
            connection,
            self.policy.id,
            after=max(0, after - MAX_ROWS),
            upto=after,
            limit=MAX_ROWS,
            reward_version=self.reward_version,
            kept=preferences,
        )
        return [row for rows, _ in batches for row in rows]

    def unweighed(self, connection: sa.Connection, log: Log, schema: Schema) -> Unweighed:
        """Imported rows without a propensity whose contexts fit, over the arms of the log.

        None where sources correct the rewards, as these rows' would be on another scale; nor where
        an arm's model was changed, as nobody says which of the two answered.
        """
        rows: Sequence[ImportedRow] = ()
        revised = policies.revised_arms(connection, self.policy.pool_id)
        if self.config.sources.plain and not revised:
            rows = imported.read(
                connection,
                self.policy.id,
                reward_version=self.reward_version,
                limit=MAX_ROWS,
                after=self.positions[0],
            )
        arms = log.log.arms
        serving = {arm for arm, there in zip(arms, log.in_service, strict=True) if there}
        kept = [
            row
            for row in rows
            if row.propensity is None
            and row.action in arms
            and not serving.isdisjoint(row.eligible)
            and _fits(row.context, schema)
        ]
        contexts = [preferences(row.context) for row in kept]
        return Unweighed(direct.encode(kept, schema, arms), contexts)


def _model(log: Log, background: Background) -> tuple[Floats, Calibration | None]:
    if len(log.log) < ope.FOLDS:
        return np.zeros(log.log.eligible.shape), None
    return log.predicted(background.pairs)


def _fits(context: Context, schema: Schema) -> bool:
    try:
        schema.encode_all([context])
    except ContextError:
        return False
    return True
