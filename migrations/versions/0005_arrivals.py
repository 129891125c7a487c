"""Decisions by their arrival: what is watched as it comes is read in that order."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables.

    Decisions lie in the order of their arrival, so a block range index is small, and keeping it
    costs next to nothing.
    """
    op.execute(
        "CREATE INDEX ix_decisions_received_at ON decisions USING brin (received_at) "
        "WITH (pages_per_range = 16, autosummarize = on)"
    )


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("DROP INDEX ix_decisions_received_at")
