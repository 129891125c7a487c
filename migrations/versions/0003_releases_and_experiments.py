"""Releases in steps, experiments, what monitors found, and who else was asked at a decision."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add only: the release before this one still runs on the tables."""
    for column in ("split TEXT", "variant TEXT", "unit TEXT", "shadows JSONB"):
        op.execute(f"ALTER TABLE decisions ADD COLUMN {column}")
    op.execute("""
        CREATE TABLE releases (
          policy_id UUID NOT NULL,
          number BIGINT NOT NULL,
          version BIGINT NOT NULL,
          champion BIGINT NOT NULL,
          plan JSONB NOT NULL,
          stage BIGINT NOT NULL,
          status TEXT NOT NULL,
          state JSONB NOT NULL,
          reason TEXT NOT NULL,
          started_at TIMESTAMP WITH TIME ZONE NOT NULL,
          stage_at TIMESTAMP WITH TIME ZONE NOT NULL,
          ended_at TIMESTAMP WITH TIME ZONE,
          CONSTRAINT pk_releases PRIMARY KEY (policy_id, number),
          CONSTRAINT fk_releases_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE
        )""")
    op.execute(
        "CREATE UNIQUE INDEX uq_releases_running ON releases (policy_id) WHERE ended_at IS NULL"
    )
    op.execute("""
        CREATE TABLE experiments (
          id UUID NOT NULL,
          policy_id UUID NOT NULL,
          name TEXT NOT NULL,
          spec JSONB NOT NULL,
          status TEXT NOT NULL,
          state JSONB NOT NULL,
          result JSONB,
          started_at TIMESTAMP WITH TIME ZONE NOT NULL,
          ended_at TIMESTAMP WITH TIME ZONE,
          CONSTRAINT pk_experiments PRIMARY KEY (id),
          CONSTRAINT fk_experiments_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE,
          CONSTRAINT uq_experiments_policy_id_name UNIQUE (policy_id, name)
        )""")
    op.execute("""
        CREATE TABLE findings (
          id UUID NOT NULL,
          policy_id UUID NOT NULL,
          monitor TEXT NOT NULL,
          severity TEXT NOT NULL,
          reaction TEXT NOT NULL,
          summary TEXT NOT NULL,
          numbers JSONB NOT NULL,
          created_at TIMESTAMP WITH TIME ZONE NOT NULL,
          CONSTRAINT pk_findings PRIMARY KEY (id),
          CONSTRAINT fk_findings_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX ix_findings_policy_id_id ON findings (policy_id, id)")
    op.execute("""
        CREATE TABLE watches (
          policy_id UUID NOT NULL,
          position BIGINT NOT NULL,
          state JSONB NOT NULL,
          overrides JSONB NOT NULL,
          updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
          CONSTRAINT pk_watches PRIMARY KEY (policy_id),
          CONSTRAINT fk_watches_policy_id FOREIGN KEY (policy_id)
            REFERENCES policies (id) ON DELETE CASCADE
        )""")


def downgrade() -> None:
    """For development; a live database goes forward only."""
    for table in ("watches", "findings", "experiments", "releases"):
        op.execute(f"DROP TABLE {table}")
    for column in ("shadows", "unit", "variant", "split"):
        op.execute(f"ALTER TABLE decisions DROP COLUMN {column}")
