"""Who said what of a decision, and since when an arm's model stands behind it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables.

    What was joined before knows no sources, and an arm that never changed has no such time.
    """
    op.execute("ALTER TABLE interactions ADD COLUMN said JSONB")
    op.execute("ALTER TABLE arms ADD COLUMN revised_at TIMESTAMP WITH TIME ZONE")


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("ALTER TABLE arms DROP COLUMN revised_at")
    op.execute("ALTER TABLE interactions DROP COLUMN said")
