"""Heads: each one's versions, what was said of them, and which serves."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables."""
    op.execute("""
        CREATE TABLE heads (
          policy_id UUID NOT NULL,
          name TEXT NOT NULL,
          number BIGINT NOT NULL,
          state TEXT NOT NULL,
          declaration JSONB NOT NULL,
          model JSONB NOT NULL,
          tensors BYTEA NOT NULL,
          digest TEXT NOT NULL,
          labels BIGINT NOT NULL,
          trained_to UUID NOT NULL,
          judged_to UUID NOT NULL,
          data_digest TEXT NOT NULL,
          passed BOOLEAN NOT NULL,
          summary TEXT NOT NULL,
          numbers JSONB NOT NULL,
          checks JSONB NOT NULL,
          created_at TIMESTAMP WITH TIME ZONE NOT NULL,
          served_at TIMESTAMP WITH TIME ZONE,
          CONSTRAINT pk_heads PRIMARY KEY (policy_id, name, number),
          CONSTRAINT fk_heads_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE
        )""")
    op.execute(
        "CREATE UNIQUE INDEX uq_heads_serving ON heads (policy_id, name) WHERE state = 'serving'"
    )


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("DROP TABLE heads")
