"""A canary's decisions, and an eighth of its control's units, found without the stage's others."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables.

    Decisions cannot be written while it is built; edges keep theirs meanwhile.
    """
    op.execute("""
        CREATE INDEX ix_decisions_canary ON decisions (policy_id, variant, decision_id)
        WHERE split = 'canary' AND (variant = 'canary' OR unit < '2')""")


def downgrade() -> None:
    """For development; a live database goes forward only."""
    op.execute("DROP INDEX ix_decisions_canary")
