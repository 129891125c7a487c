"""Interactions without a reward: counted by an index of their own, not by reading the log."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables."""
    op.execute(
        "CREATE INDEX ix_interactions_unrewarded ON interactions (policy_id) "
        "WHERE reward IS NULL AND position > 0"
    )


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("DROP INDEX ix_interactions_unrewarded")
