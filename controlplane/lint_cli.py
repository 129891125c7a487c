"""`pointsman lint`: what is wrong or odd about a policy as it stands."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from controlplane import keys, linting
from controlplane.errors import ControlPlaneError
from controlplane.installation import policy_of
from controlplane.linter import Lint
from controlplane.settings import read_settings
from storage.embedded import EmbeddedError
from storage.migrate import SchemaError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pointsman lint``; 0 without an error, 1 with one, 2 where nothing could be read."""
    given = _parser().parse_args(argv)
    try:
        found = _find(given)
    except (ControlPlaneError, EmbeddedError, SchemaError) as error:
        sys.stderr.write(f"pointsman lint: {error}\n")
        return 2
    except sa.exc.OperationalError as error:
        sys.stderr.write(f"pointsman lint: the database does not answer: {error.orig}\n")
        return 2
    sys.stdout.write((json.dumps(found.as_json()) if given.json else render(found)) + "\n")
    return 1 if found.errors else 0


def render(found: Lint) -> str:
    """The findings for people."""
    lines = [
        f"{one.severity}: {one.sentence} ({one.field}, {one.code}); {one.remedy}"
        for one in found.findings
    ]
    return "\n".join(lines or ["nothing is wrong or odd"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman lint", description=__doc__)
    parser.add_argument("--policy", required=True, help="which policy")
    parser.add_argument(
        "--project", default=keys.DEFAULT_PROJECT, help=f"default: {keys.DEFAULT_PROJECT}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _find(given: argparse.Namespace) -> Lint:
    with policy_of(read_settings(), given.project, given.policy) as (connection, policy):
        return linting.lint_policy(connection, policy, now=datetime.now(UTC))


if __name__ == "__main__":
    sys.exit(main())
