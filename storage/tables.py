"""The tables. Events are partitioned by time through UUIDv7 keys.

A sender chooses the decision's id, so the project stands in its keys: nobody can take another's.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, DOUBLE_PRECISION, JSONB, TIMESTAMP, UUID

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

PARTITIONED = ("decisions", "outcomes", "feedback", "interactions")
"""Tables whose first key column is a UUIDv7 that they are range-partitioned by, a month each."""


def _id(name: str = "id", *, key: bool = True) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), primary_key=key, nullable=False)


def _text(name: str, *, key: bool = False, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=null)


def _json(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, DOUBLE_PRECISION, nullable=null)


def _count(name: str, *, key: bool = False, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger, primary_key=key, nullable=null, autoincrement=False)


def _ref(name: str, target: str, *, key: bool = False, null: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        UUID(as_uuid=True),
        sa.ForeignKey(target, ondelete="CASCADE"),
        primary_key=key,
        nullable=null,
    )


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> sa.Index:
    return sa.Index(name, *columns, unique=unique, postgresql_where=sa.text(where))


projects = sa.Table(
    "projects", metadata, _id(), _text("name"), _time("created_at"), sa.UniqueConstraint("name")
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    _text("name"),
    _text("prefix"),
    sa.Column("secret_hash", BYTEA, nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    _time("created_at"),
    _time("revoked_at", null=True),
    sa.UniqueConstraint("prefix"),
)

signers = sa.Table("signers", metadata, _text("key_id", key=True), _time("created_at"))

pools = sa.Table(
    "pools",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    _text("name"),
    _time("created_at"),
    sa.UniqueConstraint("project_id", "name"),
)

arms = sa.Table(
    "arms",
    metadata,
    _ref("pool_id", "pools.id", key=True),
    _text("name", key=True),
    _json("spec"),
    _time("created_at"),
    _time("retired_at", null=True),
    _time("revised_at", null=True),
)

policies = sa.Table(
    "policies",
    metadata,
    _id(),
    _ref("project_id", "projects.id"),
    _ref("pool_id", "pools.id"),
    _text("name"),
    _json("config"),
    _number("wait_s"),
    _count("log_position"),
    _time("created_at"),
    _time("updated_at"),
    sa.UniqueConstraint("project_id", "name"),
)

metrics = sa.Table(
    "metrics",
    metadata,
    _ref("project_id", "projects.id", key=True),
    _text("name", key=True),
    _json("spec"),
    _time("updated_at"),
)

rewards = sa.Table(
    "rewards",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("version", key=True),
    _json("spec"),
    _time("created_at"),
)

decisions = sa.Table(
    "decisions",
    metadata,
    _id("decision_id"),
    _id("project_id"),
    _id("policy_id", key=False),
    _count("version"),
    _count("serial"),
    _text("digest"),
    _time("at"),
    _json("context"),
    sa.Column("eligible", ARRAY(sa.Text), nullable=False),
    sa.Column("distribution", ARRAY(DOUBLE_PRECISION), nullable=False),
    _text("action"),
    _number("propensity"),
    _text("mode"),
    sa.Column("retry_of", UUID(as_uuid=True), nullable=True),
    _text("session_id", null=True),
    _text("episode_id", null=True),
    _text("edge_id", null=True),
    _time("received_at"),
    _text("split", null=True),
    _text("variant", null=True),
    _text("unit", null=True),
    _json("shadows", null=True),
    sa.Index(None, "policy_id", "decision_id"),
    sa.Index(
        None,
        "received_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": "16", "autosummarize": "on"},
    ),
    sa.Index(
        "ix_decisions_episode",
        "project_id",
        "episode_id",
        postgresql_where=sa.text("episode_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_decisions_canary",
        "policy_id",
        "variant",
        "decision_id",
        postgresql_where=sa.text("split = 'canary' AND (variant = 'canary' OR unit < '2')"),
    ),
    postgresql_partition_by="RANGE (decision_id)",
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    _id("decision_id"),
    _id("project_id"),
    _time("at"),
    _json("values"),
    _text("response_id", null=True),
    _time("received_at"),
    sa.Index(
        "ix_outcomes_response",
        "project_id",
        "response_id",
        postgresql_where=sa.text("response_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (decision_id)",
)

feedback = sa.Table(
    "feedback",
    metadata,
    _id("feedback_id"),
    _id("project_id", key=False),
    sa.Column("decision_id", UUID(as_uuid=True), nullable=True),
    _text("episode_id", null=True),
    _text("metric"),
    _json("value"),
    _number("number", null=True),
    _text("source"),
    _time("occurred_at"),
    _json("tags"),
    _time("received_at"),
    _time("retracted_at", null=True),
    sa.Index(None, "decision_id", "metric"),
    _partial("ix_feedback_episode", "project_id", "episode_id", where="episode_id IS NOT NULL"),
    postgresql_partition_by="RANGE (feedback_id)",
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    _ref("project_id", "projects.id", key=True),
    _text("key", key=True),
    sa.Column("body_hash", BYTEA, nullable=False),
    _json("response", null=True),
    _time("created_at"),
    sa.Index(None, "created_at"),
)

pending_joins = sa.Table(
    "pending_joins",
    metadata,
    _id("decision_id"),
    _id("project_id"),
    _ref("policy_id", "policies.id", null=True),
    _time("due_at"),
    sa.Index(None, "policy_id", "due_at"),
)

interactions = sa.Table(
    "interactions",
    metadata,
    _id("decision_id"),
    _id("policy_id"),
    _count("position"),
    _number("reward", null=True),
    _count("reward_version"),
    _json("values"),
    _count("revision"),
    _time("joined_at"),
    _json("said", null=True),
    sa.Index(None, "policy_id", "position"),
    _partial("ix_interactions_unrewarded", "policy_id", where="reward IS NULL AND position > 0"),
    postgresql_partition_by="RANGE (decision_id)",
)

rounds = sa.Table(
    "rounds",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("number", key=True),
    _count("position"),
    _count("look"),
    _json("summary"),
    _time("started_at"),
    _time("finished_at"),
)

versions = sa.Table(
    "versions",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("number", key=True),
    _text("state"),
    _text("learner"),
    _json("config"),
    _count("seed"),
    _count("parent", null=True),
    _count("data_from"),
    _count("data_to"),
    _text("data_digest"),
    _text("digest"),
    _json("scorer"),
    sa.Column("tensors", BYTEA, nullable=False),
    sa.Column("snapshot", BYTEA, nullable=True),
    _time("created_at"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _text("alias", key=True),
    _count("version"),
    _count("revision"),
    _time("updated_at"),
)

bundles = sa.Table(
    "bundles",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("serial", key=True),
    _count("version"),
    _text("digest"),
    sa.Column("body", BYTEA, nullable=True),
    _text("reason"),
    _time("issued_at"),
    _time("expires_at"),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    _id(),
    _ref("policy_id", "policies.id"),
    _count("version"),
    _text("gate"),
    sa.Column("passed", sa.Boolean, nullable=False),
    _text("summary"),
    _json("numbers"),
    _json("checks"),
    _time("created_at"),
    sa.Index(None, "policy_id", "id"),
)

releases = sa.Table(
    "releases",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("number", key=True),
    _count("version"),
    _count("champion"),
    _json("plan"),
    _count("stage"),
    _text("status"),
    _json("state"),
    _text("reason"),
    _time("started_at"),
    _time("stage_at"),
    _time("ended_at", null=True),
    sa.Index(
        "uq_releases_running",
        "policy_id",
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
)

experiments = sa.Table(
    "experiments",
    metadata,
    _id(),
    _ref("policy_id", "policies.id"),
    _text("name"),
    _json("spec"),
    _text("status"),
    _json("state"),
    _json("result", null=True),
    _time("started_at"),
    _time("ended_at", null=True),
    sa.UniqueConstraint("policy_id", "name"),
)

heads = sa.Table(
    "heads",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _text("name", key=True),
    _count("number", key=True),
    _text("state"),
    _json("declaration"),
    _json("model"),
    sa.Column("tensors", BYTEA, nullable=False),
    _text("digest"),
    _count("labels"),
    _id("trained_to", key=False),
    _id("judged_to", key=False),
    _text("data_digest"),
    sa.Column("passed", sa.Boolean, nullable=False),
    _text("summary"),
    _json("numbers"),
    _json("checks"),
    _time("created_at"),
    _time("served_at", null=True),
    _partial("uq_heads_serving", "policy_id", "name", where="state = 'serving'", unique=True),
    sa.Column("learnt", BYTEA, nullable=True),
)

head_looks = sa.Table(
    "head_looks",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _text("name", key=True),
    _json("labels"),
    _time("looked_at"),
)

findings = sa.Table(
    "findings",
    metadata,
    _id(),
    _ref("policy_id", "policies.id"),
    _text("monitor"),
    _text("severity"),
    _text("reaction"),
    _text("summary"),
    _json("numbers"),
    _time("created_at"),
    sa.Index(None, "policy_id", "id"),
)

watches = sa.Table(
    "watches",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _count("position"),
    _json("state"),
    _json("overrides"),
    _time("updated_at"),
)

edges = sa.Table(
    "edges",
    metadata,
    _ref("project_id", "projects.id", key=True),
    _text("edge_id", key=True),
    _json("status"),
    _time("seen_at"),
)

work = sa.Table(
    "work",
    metadata,
    _ref("policy_id", "policies.id", key=True),
    _text("kind", key=True),
    _time("due_at"),
    _text("lease_owner", null=True),
    _time("lease_until", null=True),
    _count("attempts"),
    _count("asks"),
    _text("last_error", null=True),
    _time("done_at", null=True),
    sa.Index(None, "due_at"),
)
