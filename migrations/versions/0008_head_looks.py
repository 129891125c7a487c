"""Heads: what each knows, from which it learns on, and what its labels were worth at a look."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables."""
    op.execute("ALTER TABLE heads ADD COLUMN learnt BYTEA")
    op.execute("""
        CREATE TABLE head_looks (
          policy_id UUID NOT NULL,
          name TEXT NOT NULL,
          labels JSONB NOT NULL,
          looked_at TIMESTAMP WITH TIME ZONE NOT NULL,
          CONSTRAINT pk_head_looks PRIMARY KEY (policy_id, name),
          CONSTRAINT fk_head_looks_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE
        )""")


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("DROP TABLE head_looks")
    op.execute("ALTER TABLE heads DROP COLUMN learnt")
