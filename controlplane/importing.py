"""``pointsman import``: other systems' logs into a policy's log, or into a table for a replay."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from controlplane import keys
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.importing_tables import write_tables
from controlplane.installation import database_of
from controlplane.settings import read_settings
from feedback.imports.files import ImportFileError, records
from feedback.imports.recording import BATCH, Brought, Target, arm_names, bring
from feedback.imports.rows import Account, Reader, Row, time_of
from feedback.metrics import Metric
from learners.bundle import arm_from_json
from storage import policies, projects
from storage.embedded import EmbeddedError
from storage.engine import connect
from storage.migrate import SchemaError, require

KINDS: Mapping[str, tuple[str, str]] = {
    "vllm-sr": ("feedback.imports.vllm_sr", "router-replay records of vLLM's semantic router"),
    "litellm": ("feedback.imports.litellm", "spend logs of LiteLLM's proxy"),
    "openai": ("feedback.imports.openai_jsonl", "OpenAI's batches, or requests with responses"),
    "obd": ("feedback.imports.obd", "impressions of the Open Bandit Dataset"),
}
"""The formats: each one's module, and what it reads."""


class AskedWronglyError(ControlPlaneError):
    """An option cannot be used."""


def main(argv: Sequence[str]) -> int:
    """Run ``pointsman import``; 0 when done, 1 when not or in part, 2 when asked for wrongly.

    What a log holds and an importer has no place for is listed and no failure; feedback on a metric
    that nobody has declared is one, as it can be mended.
    """
    options = _parser().parse_args(argv)
    account = Account()
    try:
        found = _run(options, account)
    except (AskedWronglyError, ImportFileError) as error:
        sys.stderr.write(f"pointsman import: {error}\n")
        return 2
    except (ControlPlaneError, EmbeddedError, SchemaError, OSError) as error:
        sys.stderr.write(f"pointsman import: {error}\n")
        return 1
    except sa.exc.OperationalError as error:
        sys.stderr.write(f"pointsman import: the database does not answer: {error.orig}\n")
        return 1
    told = {"kind": options.kind, **found, **account.as_json()}
    sys.stdout.write((json.dumps(told) if options.json else render(told)) + "\n")
    wrong = complaints(told, account)
    sys.stderr.write("".join(f"pointsman import: {one}\n" for one in wrong))
    return 1 if wrong else 0


def complaints(told: Mapping[str, Any], account: Account) -> list[str]:
    """What whoever imports has to mend, in sentences; nothing where all is well."""
    found = [
        f"{rows:,} rows came without {of!r}, as no metric {metric!r} is declared: declare it by "
        f"PUT /v1/metrics/{metric}, or give --metric {of}=METRIC; then import again, nothing is "
        "stored twice"
        for (of, metric), rows in sorted(account.undeclared.items())
    ]
    if told["read"] and not any(told.get(name) for name in ("decisions", "known", "answers")):
        found.append(f"none of the {told['read']:,} records could be brought: the list says why")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman import", description=__doc__)
    kinds = "; ".join(f"{kind}: {what}" for kind, (_, what) in KINDS.items())
    parser.add_argument("kind", choices=list(KINDS), help=kinds)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=_FILE_HELP)
    option = parser.add_argument
    option("--policy", metavar="P", help="the policy whose log takes the rows")
    option("--project", default=keys.DEFAULT_PROJECT, help=f"default: {keys.DEFAULT_PROJECT}")
    option("--arm", action="append", default=[], metavar="MODEL=ARM", help=_ARM_HELP)
    option("--metric", action="append", default=[], metavar="NAME=METRIC", help=_METRIC_HELP)
    option("--at", metavar="TIME", help="when rows without a time of their own were decided")
    option("--to-log", type=Path, metavar="FILE", help=_TO_LOG_HELP)
    option("--score", metavar="NAME", help="with --to-log: the feedback, 0 to 1, that is the score")
    option("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


_FILE_HELP = "JSON (.json), JSON lines or CSV (.csv), each plain or gzipped (.gz)"
_ARM_HELP = "what the log calls a model, and which arm that is; default: the arm's name or model"
_METRIC_HELP = "what the log calls a metric, and which of the project's that is; default: the same"
_TO_LOG_HELP = (
    "write FILE.queries.csv and FILE.outcomes.csv for `pointsman replay`; no database is needed"
)


def _run(options: argparse.Namespace, account: Account) -> dict[str, Any]:
    rows = _rows(options.kind, options.files, account)
    if options.to_log is not None:
        if options.score is None:
            raise AskedWronglyError(
                "--to-log needs --score: the feedback that says how good it was"
            )
        renamed = _pairs("--arm", options.arm)
        return write_tables(options.to_log, rows, options.score, renamed, account)
    if options.policy is None:
        raise AskedWronglyError("give --policy P, or --to-log FILE")
    return asdict(_bring_all(options, rows, account))


def _rows(kind: str, files: Sequence[Path], account: Account) -> Iterator[Row]:
    reader = cast("Reader", import_module(KINDS[kind][0]))
    return reader.read(records(files, account), account)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """``A=B``, by what stands before the last ``=``: a model's name may hold one."""
    found = {}
    for text in given:
        name, separator, value = text.rpartition("=")
        if not (separator and name and value):
            raise AskedWronglyError(f"{option} {text!r}: give NAME=NAME")
        found[name] = value
    return found


def _bring_all(options: argparse.Namespace, rows: Iterator[Row], account: Account) -> Brought:
    with database_of(read_settings()) as url:
        return _bring(options, rows, account, url)


def _bring(options: argparse.Namespace, rows: Iterator[Row], account: Account, url: str) -> Brought:
    engine = connect(url, pool_size=1)
    try:
        with engine.connect() as connection:
            require(connection)
            target = _target(connection, options)
        total = Brought()
        while batch := list(islice(rows, BATCH)):
            with engine.begin() as connection:
                total += bring(connection, target, batch, account, datetime.now(UTC))
    finally:
        engine.dispose()
    return total


def _target(connection: sa.Connection, options: argparse.Namespace) -> Target:
    """The policy with its arms in service and the project's metrics."""
    project = projects.find_project(connection, options.project)
    if project is None:
        raise NotFoundError(f"project {options.project!r} does not exist")
    policy = policies.find_policy(connection, project, options.policy)
    if policy is None:
        raise NotFoundError(
            f"policy {options.policy!r} does not exist in project {options.project!r}: create it "
            f"by PUT /v1/policies/{options.policy}"
        )
    arms = [arm_from_json(row) for row in policies.list_arms(connection, policy.pool_id)]
    renamed, known = _pairs("--arm", options.arm), {arm.name for arm in arms}
    strange = sorted(set(renamed.values()) - known)
    if strange:
        raise AskedWronglyError(f"--arm: {strange[0]!r} is no arm: there are {sorted(known)}")
    declared = policies.list_metrics(connection, project)
    return Target(
        project_id=project,
        policy_id=policy.id,
        kind=options.kind,
        arms=tuple(arm.name for arm in arms),
        names=arm_names(arms, renamed),
        metrics={name: Metric.from_json(name, row) for name, row in declared.items()},
        renamed=_pairs("--metric", options.metric),
        at=_at(options.at),
    )


def _at(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = time_of(text)
    if found is None:
        raise AskedWronglyError(f"--at {text!r}: give a time such as 2026-01-31T12:00:00Z")
    return found


@dataclass(frozen=True, slots=True)
class _Line:
    """One count of the report."""

    rows: int
    text: str

    def __str__(self) -> str:
        return f"{self.rows:>9,}  {self.text}"


def render(told: Mapping[str, Any]) -> str:
    """What was read, what was brought, and what was not, for people."""
    counts = [
        _Line(value, name.replace("_", " "))
        for name, value in told.items()
        if isinstance(value, int) and name != "read"
    ]
    parts = [f"{told['kind']}: {told['read']:,} records", *map(str, counts)]
    for title, key in (("rows that stayed behind", "skipped"), ("came without", "lost")):
        if told[key]:
            lines = [_Line(one["rows"], f"{one['field']}: {one['reason']}") for one in told[key]]
            parts += [f"{title}:", *map(str, lines)]
    if told.get("without_propensity"):
        parts.append(
            "Rows without a propensity serve the direct method only: no learner and no gate reads "
            "them."
        )
    return "\n".join(parts)
