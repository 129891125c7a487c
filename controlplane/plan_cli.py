"""`pointsman plan`: how many decisions and days until a difference can be seen; nothing begins."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa

from controlplane import keys, planning
from controlplane.errors import ControlPlaneError
from controlplane.experiment_config import REWARD
from controlplane.installation import policy_of
from controlplane.settings import read_settings
from learners.errors import LearnersError
from learners.lineup import Unit
from storage.embedded import EmbeddedError
from storage.migrate import SchemaError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pointsman plan``; 0 when there is a plan, 1 when there is none."""
    given = _parser().parse_args(argv)
    try:
        told = _estimate(given)
    except (ControlPlaneError, LearnersError, EmbeddedError, SchemaError) as error:
        sys.stderr.write(f"pointsman plan: {error}\n")
        return 1
    except sa.exc.OperationalError as error:
        sys.stderr.write(f"pointsman plan: the database does not answer: {error.orig}\n")
        return 1
    sys.stdout.write((json.dumps(told) if given.json else render(told)) + "\n")
    return 0


def render(told: dict[str, Any]) -> str:
    """The plan for people."""
    first = (
        f"{told['policy']}: {told['requests_per_day']:,.0f} requests a day, "
        f"{told['exploration']:.0%} of them explored; {told['metric']} has a standard "
        f"deviation of {told['deviation']:.4g}, design effect {told['design_effect']:.3g}"
    )
    return "\n".join([first, *(f"- {one['sentence']}" for one in told["plans"])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman plan", description=__doc__)
    option = parser.add_argument
    option("--policy", required=True, help="whose traffic")
    option("--difference", type=float, required=True, help="to be seen, in the metric's unit")
    option("--project", default=keys.DEFAULT_PROJECT, help=f"default: {keys.DEFAULT_PROJECT}")
    option("--metric", default=REWARD, help=f"that is compared; default: {REWARD}")
    option("--unit", default="session", choices=get_args(Unit), help="default: session")
    option("--share", type=float, default=0.5, help="of the new variant; default: 0.5")
    option("--traffic", type=float, default=1.0, help="share that takes part; default: 1")
    option("--differ", type=float, default=0.3, help=_DIFFER_HELP)
    option("--power", type=float, default=0.8, help="chance to see it; default: 0.8")
    option("--alpha", type=float, default=0.05, help="chance of a false alarm; default: 0.05")
    option("--requests-per-day", type=float, help="default: as the log has it")
    option("--deviation", type=float, help="of the metric; default: as the log has it")
    option("--json", action="store_true", help="print one JSON object")
    return parser


_DIFFER_HELP = "share of the requests on which a candidate chooses otherwise; default: 0.3"


def _estimate(given: argparse.Namespace) -> dict[str, Any]:
    asked = planning.Asked(**{name: getattr(given, name) for name in _ASKED})
    with policy_of(read_settings(), given.project, given.policy) as (connection, policy):
        return planning.estimate(connection, policy, asked, datetime.now(UTC))


_ASKED = tuple(planning.Asked.__dataclass_fields__)


if __name__ == "__main__":
    sys.exit(main())
