"""The reference names every field and option, with the default that the code has."""

import argparse
import dataclasses
import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from controlplane import config, replay
from controlplane.api.wire import (
    ArmBody,
    CardBody,
    MetricBody,
    PolicyBody,
    RewardBody,
    RewardGateBody,
    TermBody,
)
from controlplane.config import (
    GateConfig,
    LearnerConfig,
    QualityConfig,
    ShadowDispatchConfig,
    SourcesConfig,
)
from controlplane.experiment_config import (
    Covariate,
    ExperimentConfig,
    ExperimentGuardrail,
    ExperimentVariant,
)
from controlplane.heads_config import GuardConfig, HeadConfig
from controlplane.release_config import GUARDRAILS, Guardrail, HarmConfig, ReleaseConfig
from controlplane.revise_config import ReviseConfig
from controlplane.simulation.tables import _MEASURES, _QUERY_COLUMNS
from edge.reading import FIRST_TIER, MODEL_VECTORS, REASKED
from feedback.metrics import OUTCOMES, Metric
from kernels.signals.text import SIGNAL_SCHEMA
from learners import catalogue, rewards
from learners.features import Feature
from learners.schedule import EXPLORATION_PARAMS

PAGES = Path(__file__).parent.parent / "docs" / "reference"
DECLARATIONS = (PAGES / "declarations.md").read_text()
REPLAY = (PAGES / "replay.md").read_text()
LEARNERS = (PAGES / "learners.md").read_text()
DECLARED: dict[str, Any] = {
    "Arm": ArmBody,
    "Card": CardBody,
    "Metric": MetricBody,
    "Policy": PolicyBody,
    "Learner": LearnerConfig,
    "Quality gate": QualityConfig,
    "Gate": GateConfig,
    "Sources": SourcesConfig,
    "Release": ReleaseConfig,
    "Guardrail": Guardrail,
    "Harm": HarmConfig,
    "Shadow dispatch": ShadowDispatchConfig,
    "Revise": ReviseConfig,
    "Head": HeadConfig,
    "Guard": GuardConfig,
    "Feature": Feature,
    "Reward": RewardBody,
    "Term": TermBody,
    "Reward gate": RewardGateBody,
    "Experiment": ExperimentConfig,
    "Experiment variant": ExperimentVariant,
    "Experiment guardrail": ExperimentGuardrail,
    "Covariate": Covariate,
}
IN_WORDS = {"features": "the signals", "learners": "`linucb`, `vw`"}
REQUIRED = "required"

Rows = list[list[str]]


def part_of(title: str, page: str = DECLARATIONS) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^##+ {title}$(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def rows_of(text: str) -> Rows:
    """The cells of every table's rows; a first cell is code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def shown(default: object) -> str:
    """A default as the page writes it."""
    if default is None or default == "":
        return "none" if default is None else "empty"
    if isinstance(default, BaseModel) or dataclasses.is_dataclass(default):
        return "`{}`"
    if isinstance(default, str):
        return f"`{default}`"
    return f"`{json.dumps(default, default=str)}`"


def fields_of(declared: Any) -> dict[str, str]:
    """Each field with its default, as the page writes it."""
    if dataclasses.is_dataclass(declared):
        plain = {}
        for field in dataclasses.fields(declared):
            made = field.default_factory
            if made is not dataclasses.MISSING:
                plain[field.name] = shown(made())
            else:
                missing = field.default is dataclasses.MISSING
                plain[field.name] = REQUIRED if missing else shown(field.default)
    else:
        plain = {
            name: REQUIRED if field.is_required() else shown(field.get_default())
            for name, field in declared.model_fields.items()
        }
    return plain


@pytest.mark.parametrize("title", DECLARED)
def test_every_field_stands_there_with_its_default_and_no_other(title: str):
    told = {row[0].strip("`"): row[2] for row in rows_of(part_of(title)) if len(row) == 5}
    held = fields_of(DECLARED[title])
    if title == "Policy":
        held.update(IN_WORDS)
        names = [learner.name for learner in config.PolicyConfig().learners]
        assert IN_WORDS["learners"] == ", ".join(f"`{name}`" for name in names)
    if title == "Release":
        held["guardrails"] = "below"
        shown_there = "; ".join(
            f"`{one.metric}`, {one.kind}, {one.margin:g}{' relative' * one.relative}"
            for one in GUARDRAILS
        )
        assert shown_there in part_of("Guardrail")
    assert told == held


def test_the_signals_and_the_outcomes_stand_there():
    rows = rows_of(part_of("Feature"))[6:]
    signals = [(name, row[1].split()[0]) for row in rows for name in re.findall("`(.+?)`", row[0])]
    first = len(SIGNAL_SCHEMA)
    assert signals[:first] == [(row["name"], row["kind"]) for row in SIGNAL_SCHEMA]
    others = {name for name, _ in signals[first:]}
    assert others >= MODEL_VECTORS | REASKED
    assert {name.partition(".")[0] for name in others - MODEL_VECTORS - REASKED} == FIRST_TIER
    outcomes = [row[0].strip("`") for row in rows_of(part_of("Term")) if len(row) == 2]
    assert outcomes == list(OUTCOMES)


def test_every_parameter_of_every_learner_stands_there_with_its_default():
    rows = rows_of(part_of("Parameters of the learners"))
    common = {row[0].strip("`"): row[1] for row in rows if len(row) == 4}
    assert common == {name: shown(default) for name, default in EXPLORATION_PARAMS.items()}
    own = {(row[0].strip("`"), row[1].strip("`")): row[2] for row in rows if len(row) == 5}
    assert own == {
        (learner, name): shown(default)
        for learner in catalogue.NAMES
        for name, default in catalogue.load(learner).PARAMS.items()
        if EXPLORATION_PARAMS.get(name) != default
    }


def learner_rows() -> list[tuple[str, list[str]]]:
    """Each learner that the table names, with its row's cells; a row may name several."""
    rows = [row for row in rows_of(LEARNERS) if len(row) == 5]
    return [(name, row) for row in rows for name in re.findall(r"`(\w+)`", row[0])]


def test_every_learner_of_the_catalogue_has_one_row_and_no_other_has():
    assert sorted(name for name, _ in learner_rows()) == sorted(catalogue.NAMES)
    assert [name for name, row in learner_rows() if not all(row)] == []


@pytest.mark.parametrize(("name", "row"), learner_rows(), ids=[name for name, _ in learner_rows()])
def test_a_learners_sources_are_named_by_its_module_or_one_that_it_imports(
    name: str, row: list[str]
):
    module = import_module(catalogue._MODULES[name])
    homes = {getattr(value, "__module__", None) for value in vars(module).values()}
    imported = [value for value in vars(module).values() if inspect.ismodule(value)]
    imported += [sys.modules[home] for home in homes if home in sys.modules]
    told = " ".join(one.__doc__ or "" for one in (module, *imported))
    sources = re.findall(r"arXiv:\d+\.\d+|\b(?:19|20)\d\d\b", row[4])
    assert sources or row[4] == "own"
    assert [source for source in sources if source not in told] == []


def examples_of(title: str) -> list[str]:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", DECLARATIONS, re.MULTILINE | re.DOTALL)
    assert found is not None
    blocks = re.findall(r"^```json\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    assert blocks
    return [str(block) for block in blocks]


def test_the_examples_are_taken():
    for text in examples_of("Arm"):
        ArmBody.model_validate_json(text)
    for text in examples_of("Metric"):
        Metric(name="mood", **dict(MetricBody.model_validate_json(text)))
    for text in examples_of("Policy"):
        policy = config.from_json(PolicyBody.model_validate_json(text).model_dump(exclude={"pool"}))
        config.check_learners(policy, ("small", "large"))
    for text in examples_of("Experiment"):
        TypeAdapter(ExperimentConfig).validate_json(text)
    for text in examples_of("Reward"):
        body = RewardBody.model_validate_json(text)
        if body.expression is None:
            rewards.RewardFunction.from_json(body.model_dump(include={"terms", "offset", "gates"}))
        else:
            rewards.parse(body.expression)


@pytest.fixture(name="example")
def _example(tmp_path: Path) -> list[str]:
    """The page's files and command, with the files in a folder of the test's own."""
    files = re.findall(r"^```csv\n(.*?)^```", REPLAY, re.MULTILINE | re.DOTALL)
    for name, text in zip(("queries.csv", "outcomes.csv"), files, strict=True):
        (tmp_path / name).write_text(text)
    command = re.search(r"^\.venv/bin/pointsman replay (.*)$", REPLAY, re.MULTILINE)
    assert command is not None
    return [
        str(tmp_path / Path(word).name) if word.endswith(".csv") else word
        for word in command[1].split()
    ]


def test_the_replay_of_the_page_runs_and_its_answer_holds_what_the_page_says(example, capsys):
    assert replay.main([*example, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = part_of("The JSON answer", REPLAY)
    keys = {key for row in rows_of(told) for key in re.findall(r"`(\w+)`", row[0])}
    assert keys == set(found)
    baselines = {row[0].strip("`") for row in rows_of(part_of("The baselines", REPLAY))}
    assert baselines == set(found["baselines"])
    assert found["baselines"]["full_information"] is not None


def test_the_page_lists_replays_options_with_their_defaults():
    parser = argparse.ArgumentParser(add_help=False)
    replay.add_arguments(parser)
    rows = rows_of(part_of("Options", REPLAY))
    told = {row[0].strip("`").split()[0]: row[1].strip("`") for row in rows}
    held = {
        action.option_strings[0]: REQUIRED if action.required else str(action.default)
        for action in parser._actions
    }
    in_words = {"--arms": "all models", "--param": "none", "--json": ""}
    files = dict.fromkeys(("--test-queries", "--test-outcomes", "--prior"), "none")
    assert told == {**held, **in_words, **files}


def test_the_page_lists_the_columns_that_are_read():
    rows = rows_of(part_of("The two files", REPLAY))
    columns = [row[0].strip("`") for row in rows]
    assert columns == [*_QUERY_COLUMNS, "query_id", "model", *_MEASURES]
