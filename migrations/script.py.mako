"""${message}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """For development; a live database goes forward only."""
    ${downgrades if downgrades else "pass"}
