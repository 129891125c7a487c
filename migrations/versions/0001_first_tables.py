"""The first tables."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE decisions (
      decision_id UUID NOT NULL,
      project_id UUID NOT NULL,
      policy_id UUID NOT NULL,
      version BIGINT NOT NULL,
      serial BIGINT NOT NULL,
      digest TEXT NOT NULL,
      at TIMESTAMP WITH TIME ZONE NOT NULL,
      context JSONB NOT NULL,
      eligible TEXT[] NOT NULL,
      distribution DOUBLE PRECISION[] NOT NULL,
      action TEXT NOT NULL,
      propensity DOUBLE PRECISION NOT NULL,
      mode TEXT NOT NULL,
      retry_of UUID,
      session_id TEXT,
      episode_id TEXT,
      edge_id TEXT,
      received_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_decisions PRIMARY KEY (decision_id, project_id)
    )
     PARTITION BY RANGE (decision_id)
    """,
    """
    CREATE INDEX ix_decisions_episode ON decisions (project_id, episode_id) WHERE episode_id IS NOT NULL
    """,
    """
    CREATE INDEX ix_decisions_policy_id_decision_id ON decisions (policy_id, decision_id)
    """,
    """
    CREATE TABLE decisions_default PARTITION OF decisions DEFAULT
    """,
    """
    CREATE TABLE feedback (
      feedback_id UUID NOT NULL,
      project_id UUID NOT NULL,
      decision_id UUID,
      episode_id TEXT,
      metric TEXT NOT NULL,
      value JSONB NOT NULL,
      number DOUBLE PRECISION,
      source TEXT NOT NULL,
      occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
      tags JSONB NOT NULL,
      received_at TIMESTAMP WITH TIME ZONE NOT NULL,
      retracted_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_feedback PRIMARY KEY (feedback_id)
    )
     PARTITION BY RANGE (feedback_id)
    """,
    """
    CREATE INDEX ix_feedback_decision_id_metric ON feedback (decision_id, metric)
    """,
    """
    CREATE INDEX ix_feedback_episode ON feedback (project_id, episode_id) WHERE episode_id IS NOT NULL
    """,
    """
    CREATE TABLE feedback_default PARTITION OF feedback DEFAULT
    """,
    """
    CREATE TABLE interactions (
      decision_id UUID NOT NULL,
      policy_id UUID NOT NULL,
      position BIGINT NOT NULL,
      reward DOUBLE PRECISION,
      reward_version BIGINT NOT NULL,
      values JSONB NOT NULL,
      revision BIGINT NOT NULL,
      joined_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_interactions PRIMARY KEY (decision_id, policy_id)
    )
     PARTITION BY RANGE (decision_id)
    """,
    """
    CREATE INDEX ix_interactions_policy_id_position ON interactions (policy_id, position)
    """,
    """
    CREATE TABLE interactions_default PARTITION OF interactions DEFAULT
    """,
    """
    CREATE TABLE outcomes (
      decision_id UUID NOT NULL,
      project_id UUID NOT NULL,
      at TIMESTAMP WITH TIME ZONE NOT NULL,
      values JSONB NOT NULL,
      response_id TEXT,
      received_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_outcomes PRIMARY KEY (decision_id, project_id)
    )
     PARTITION BY RANGE (decision_id)
    """,
    """
    CREATE INDEX ix_outcomes_response ON outcomes (project_id, response_id) WHERE response_id IS NOT NULL
    """,
    """
    CREATE TABLE outcomes_default PARTITION OF outcomes DEFAULT
    """,
    """
    CREATE TABLE projects (
      id UUID NOT NULL,
      name TEXT NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_projects PRIMARY KEY (id),
      CONSTRAINT uq_projects_name UNIQUE (name)
    )
    """,
    """
    CREATE TABLE api_keys (
      id UUID NOT NULL,
      project_id UUID NOT NULL,
      name TEXT NOT NULL,
      prefix TEXT NOT NULL,
      secret_hash BYTEA NOT NULL,
      scopes TEXT[] NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      revoked_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_api_keys PRIMARY KEY (id),
      CONSTRAINT uq_api_keys_prefix UNIQUE (prefix),
      CONSTRAINT fk_api_keys_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE edges (
      project_id UUID NOT NULL,
      edge_id TEXT NOT NULL,
      status JSONB NOT NULL,
      seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_edges PRIMARY KEY (project_id, edge_id),
      CONSTRAINT fk_edges_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE idempotency_keys (
      project_id UUID NOT NULL,
      key TEXT NOT NULL,
      body_hash BYTEA NOT NULL,
      response JSONB,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_idempotency_keys PRIMARY KEY (project_id, key),
      CONSTRAINT fk_idempotency_keys_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at)
    """,
    """
    CREATE TABLE metrics (
      project_id UUID NOT NULL,
      name TEXT NOT NULL,
      spec JSONB NOT NULL,
      updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_metrics PRIMARY KEY (project_id, name),
      CONSTRAINT fk_metrics_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE pools (
      id UUID NOT NULL,
      project_id UUID NOT NULL,
      name TEXT NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_pools PRIMARY KEY (id),
      CONSTRAINT uq_pools_project_id_name UNIQUE (project_id, name),
      CONSTRAINT fk_pools_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE arms (
      pool_id UUID NOT NULL,
      name TEXT NOT NULL,
      spec JSONB NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      retired_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_arms PRIMARY KEY (pool_id, name),
      CONSTRAINT fk_arms_pool_id FOREIGN KEY(pool_id) REFERENCES pools (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE policies (
      id UUID NOT NULL,
      project_id UUID NOT NULL,
      pool_id UUID NOT NULL,
      name TEXT NOT NULL,
      config JSONB NOT NULL,
      wait_s DOUBLE PRECISION NOT NULL,
      log_position BIGINT NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_policies PRIMARY KEY (id),
      CONSTRAINT uq_policies_project_id_name UNIQUE (project_id, name),
      CONSTRAINT fk_policies_project_id FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE,
      CONSTRAINT fk_policies_pool_id FOREIGN KEY(pool_id) REFERENCES pools (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE aliases (
      policy_id UUID NOT NULL,
      alias TEXT NOT NULL,
      version BIGINT NOT NULL,
      revision BIGINT NOT NULL,
      updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_aliases PRIMARY KEY (policy_id, alias),
      CONSTRAINT fk_aliases_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE bundles (
      policy_id UUID NOT NULL,
      serial BIGINT NOT NULL,
      version BIGINT NOT NULL,
      digest TEXT NOT NULL,
      body BYTEA,
      reason TEXT NOT NULL,
      issued_at TIMESTAMP WITH TIME ZONE NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_bundles PRIMARY KEY (policy_id, serial),
      CONSTRAINT fk_bundles_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE pending_joins (
      decision_id UUID NOT NULL,
      project_id UUID NOT NULL,
      policy_id UUID,
      due_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_pending_joins PRIMARY KEY (decision_id, project_id),
      CONSTRAINT fk_pending_joins_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_pending_joins_policy_id_due_at ON pending_joins (policy_id, due_at)
    """,
    """
    CREATE TABLE rewards (
      policy_id UUID NOT NULL,
      version BIGINT NOT NULL,
      spec JSONB NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_rewards PRIMARY KEY (policy_id, version),
      CONSTRAINT fk_rewards_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE rounds (
      policy_id UUID NOT NULL,
      number BIGINT NOT NULL,
      position BIGINT NOT NULL,
      look BIGINT NOT NULL,
      summary JSONB NOT NULL,
      started_at TIMESTAMP WITH TIME ZONE NOT NULL,
      finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_rounds PRIMARY KEY (policy_id, number),
      CONSTRAINT fk_rounds_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE verdicts (
      id UUID NOT NULL,
      policy_id UUID NOT NULL,
      version BIGINT NOT NULL,
      gate TEXT NOT NULL,
      passed BOOLEAN NOT NULL,
      summary TEXT NOT NULL,
      numbers JSONB NOT NULL,
      checks JSONB NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_verdicts PRIMARY KEY (id),
      CONSTRAINT fk_verdicts_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_verdicts_policy_id_id ON verdicts (policy_id, id)
    """,
    """
    CREATE TABLE versions (
      policy_id UUID NOT NULL,
      number BIGINT NOT NULL,
      state TEXT NOT NULL,
      learner TEXT NOT NULL,
      config JSONB NOT NULL,
      seed BIGINT NOT NULL,
      parent BIGINT,
      data_from BIGINT NOT NULL,
      data_to BIGINT NOT NULL,
      data_digest TEXT NOT NULL,
      digest TEXT NOT NULL,
      scorer JSONB NOT NULL,
      tensors BYTEA NOT NULL,
      snapshot BYTEA,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_versions PRIMARY KEY (policy_id, number),
      CONSTRAINT fk_versions_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE signers (
      key_id TEXT NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_signers PRIMARY KEY (key_id)
    )
    """,
    """
    CREATE TABLE work (
      policy_id UUID NOT NULL,
      kind TEXT NOT NULL,
      due_at TIMESTAMP WITH TIME ZONE NOT NULL,
      lease_owner TEXT,
      lease_until TIMESTAMP WITH TIME ZONE,
      attempts BIGINT NOT NULL,
      asks BIGINT NOT NULL,
      last_error TEXT,
      done_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_work PRIMARY KEY (policy_id, kind),
      CONSTRAINT fk_work_policy_id FOREIGN KEY(policy_id) REFERENCES policies (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_work_due_at ON work (due_at)
    """,
)

TABLES = (
    "work",
    "versions",
    "verdicts",
    "rounds",
    "rewards",
    "pending_joins",
    "bundles",
    "aliases",
    "policies",
    "arms",
    "pools",
    "metrics",
    "idempotency_keys",
    "edges",
    "signers",
    "api_keys",
    "projects",
    "outcomes",
    "interactions",
    "feedback",
    "decisions",
)


def upgrade() -> None:
    """Create every table, with a default partition for each event table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop every table."""
    for table in TABLES:
        op.execute(f"DROP TABLE {table} CASCADE")
