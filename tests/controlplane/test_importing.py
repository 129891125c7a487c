import csv
import gzip
import json
import math
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane import cli, importing, registry
from controlplane.simulation import tables
from feedback import join
from feedback.imports import direct
from feedback.metrics import Metric
from learners import ope
from learners.errors import EstimateError
from learners.features import Feature, Schema
from learners.rewards import RewardFunction, Term
from storage import imported, interactions, policies
from storage.tables import metadata
from storage.versions import StoredRound
from tests.controlplane.learning_world import ARMS, NOW, PUBLISHER, World, arm
from tests.feedback.imports import samples

Run = Callable[..., tuple[int, dict[str, Any], str]]
_NUMBERS = count()
LATER = NOW.replace(year=2036)


@pytest.fixture(name="run")
def _run(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    url = world.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", url)
    monkeypatch.setenv("POINTSMAN_DATA_DIR", str(tmp_path))

    def run(kind: str, *options: object) -> tuple[int, dict[str, Any], str]:
        where = () if "--project" in options else ("--project", world.project)
        code = cli.main(["import", kind, *map(str, options), *where, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else {}, printed.err

    return run


@pytest.fixture(name="world")
def _world(log_engine: sa.Engine) -> World:
    """A policy over four arms whose reward is whether the arm did not fail."""
    return World(log_engine, f"i{next(_NUMBERS):09d}")


def declare(world: World, *metrics: Metric, reward: RewardFunction | None = None) -> None:
    with world.engine.begin() as connection:
        for metric in metrics:
            policies.put_metric(connection, world.project_id, metric.name, metric.as_json(), NOW)
        if reward is not None:
            policies.add_reward(connection, world.policy.id, reward.as_json(), 0.0, NOW)


def joined(world: World) -> list[Any]:
    """What learners and judges may read of the log."""
    with world.engine.begin() as connection:
        return join.join(connection, world.policy.id, 0, now=LATER)


def stored(world: World) -> list[imported.ImportedRow]:
    with world.engine.begin() as connection:
        newest = policies.newest_reward(connection, world.policy.id)
        assert newest is not None
        return list(
            imported.read(connection, world.policy.id, reward_version=newest[0], limit=100_000)
        )


def counted(world: World, name: str) -> int:
    table = metadata.tables[name]
    mine = sa.select(sa.func.count()).where(table.c.project_id == world.project_id)
    with world.engine.connect() as connection:
        return connection.execute(mine).scalar_one()


def spend_log(tmp_path: Path, n: int = 6) -> Path:
    return samples.write_lines(tmp_path / "s.jsonl", *(samples.litellm(i) for i in range(n)))


AS_ARMS = ("--policy", "chat", "--arm", "gpt-4o=a", "--arm", "gpt-4o-mini=b")


def test_rows_without_a_propensity_are_stored_joined_and_never_learnt_from(
    run: Run, world: World, tmp_path: Path
):
    code, told, err = run("litellm", spend_log(tmp_path), *AS_ARMS)
    assert (code, err) == (0, "")
    assert told["decisions"] == told["without_propensity"] == told["outcomes"] == 6
    assert joined(world) == []
    rows = stored(world)
    assert [row.action for row in rows] == ["a", "b"] * 3
    assert all(row.propensity is None and row.reward == 1 for row in rows)
    assert all(row.eligible == ARMS for row in rows)
    with world.engine.connect() as connection:
        wanted = "SELECT mode, propensity, distribution FROM decisions WHERE project_id = :p"
        found = connection.execute(sa.text(wanted), {"p": world.project_id})
        for mode, propensity, distribution in found:
            assert mode == "imported"
            assert math.isnan(propensity)
            assert distribution == []


def test_what_was_imported_twice_is_there_once(run: Run, world: World, tmp_path: Path):
    declare(world, Metric("score", range=(0.0, 1.0)))
    file = samples.write_lines(tmp_path / "p.jsonl", *(samples.pair(n) for n in range(4)))
    options = ("--policy", "chat", "--arm", "gpt-4o=a")
    first = run("openai", file, *options)[1]
    assert (first["decisions"], first["outcomes"], first["feedback"]) == (4, 4, 4)
    before = {name: counted(world, name) for name in ("decisions", "outcomes", "feedback")}
    again = run("openai", file, *options)[1]
    assert (again["decisions"], again["outcomes"], again["feedback"]) == (0, 0, 0)
    assert again["known"] == 4
    assert before == {name: counted(world, name) for name in before}
    more = samples.write_lines(tmp_path / "q.jsonl", *(samples.pair(n) for n in range(5)))
    assert run("openai", more, *options)[1]["decisions"] == 1


def test_rows_with_a_propensity_enter_the_log_with_it(run: Run, world: World, tmp_path: Path):
    declare(world, Metric("score", range=(0.0, 1.0)), reward=RewardFunction((Term("score"),)))
    pairs = [samples.pair(1), samples.pair(2, propensity=None), samples.pair(3)]
    file = samples.write_lines(tmp_path / "p.jsonl", *pairs)
    told = run("openai", file, "--policy", "chat", "--arm", "gpt-4o=a")[1]
    assert (told["decisions"], told["without_propensity"]) == (3, 1)
    found = joined(world)
    assert [(row.propensity, row.reward, row.source) for row in found] == [
        (0.25, 0.75, "import:openai")
    ] * 2
    assert len(stored(world)) == 3


def test_no_round_trains_or_judges_on_rows_without_a_propensity(
    run: Run, world: World, tmp_path: Path
):
    entries = [samples.litellm(n % 60, request_id=f"r{n}") for n in range(500)]
    run("litellm", samples.write_lines(tmp_path / "s.jsonl", *entries), *AS_ARMS)
    assert joined(world) == []
    done: StoredRound = world.round()
    assert world.policy.log_position == 500
    assert done.summary["candidates"] == {}
    assert done.summary["published"] is None
    world.log(600)
    done = world.round()
    verdicts = world.verdicts()
    assert verdicts
    assert done.summary["trained_on"] == [0, 550]
    for verdict in verdicts.values():
        assert verdict.numbers["judged"] == 550  # of the 600 that chose with a known probability


def test_the_direct_method_reads_them_and_no_other_estimator_does(
    run: Run, world: World, tmp_path: Path
):
    entries = [
        samples.litellm(n % 60, request_id=f"r{n}", status="failure" if n % 4 == 0 else "success")
        for n in range(80)
    ]
    run("litellm", samples.write_lines(tmp_path / "s.jsonl", *entries), *AS_ARMS)
    joined(world)
    schema = Schema((Feature("code", "flag"),))
    log = direct.encode(stored(world), schema, ("a", "b"))
    assert len(log) == 80
    assert not log.weighable.any()
    always_b = log.eligible * [0.0, 1.0]
    found = ope.estimate(ope.evaluate(log, always_b, "dm"))
    assert found.value == pytest.approx(1.0, abs=0.05)  # b never failed, a every other time
    with pytest.raises(EstimateError, match="no propensity"):
        ope.evaluate(log, always_b, "dr")


def test_a_model_that_no_arm_is_stays_behind_by_name(run: Run, world: World, tmp_path: Path):
    told = run("litellm", spend_log(tmp_path), "--policy", "chat", "--arm", "gpt-4o=a")[1]
    assert told["decisions"] == 3
    assert told["skipped"] == [
        {"field": "model", "reason": "'gpt-4o-mini' is no arm of the policy's pool", "rows": 3}
    ]
    assert counted(world, "decisions") == 3


def test_feedback_on_a_metric_that_is_not_declared_is_an_error_that_names_it_and_the_rest_comes(
    run: Run, world: World, tmp_path: Path
):
    file = samples.write_lines(
        tmp_path / "p.jsonl", samples.pair(1), samples.pair(2, feedback={"grade": 3, "score": 9})
    )
    declare(world, Metric("quality", range=(0.0, 1.0)))
    options = ("openai", file, "--policy", "chat", "--arm", "gpt-4o=a", "--metric", "score=quality")
    code, told, said = run(*options)
    assert (told["decisions"], told["feedback"]) == (2, 1)
    assert {(one["field"], one["rows"]) for one in told["lost"]} >= {("grade", 1), ("quality", 1)}
    assert code == 1
    assert said == (
        "pointsman import: 1 rows came without 'grade', as no metric 'grade' is declared: declare "
        "it by PUT /v1/metrics/grade, or give --metric grade=METRIC; then import again, nothing is "
        "stored twice\n"
    )
    declare(world, Metric("grade"))
    code, told, said = run(*options)
    assert (code, told["decisions"], told["known"], told["feedback"], said) == (0, 0, 2, 1, "")


def test_where_no_record_could_be_brought_it_says_so_and_fails(run: Run, tmp_path: Path):
    code, told, said = run("litellm", spend_log(tmp_path), "--policy", "chat")
    assert (code, told["decisions"], told["known"]) == (1, 0, 0)
    assert said == ("pointsman import: none of the 6 records could be brought: the list says why\n")


def test_rows_without_a_time_need_one(run: Run, tmp_path: Path):
    bare = samples.pair(1)
    del bare["response"]["created"]
    file = samples.write_lines(tmp_path / "p.jsonl", bare)
    options = ("--policy", "chat", "--arm", "gpt-4o=a")
    told = run("openai", file, *options)[1]
    assert told["decisions"] == 0
    assert told["skipped"][0]["field"] == "at"
    assert run("openai", file, *options, "--at", "2026-01-31T12:00:00Z")[1]["decisions"] == 1
    future = run("openai", file, *options, "--at", "2126-01-31T12:00:00Z")[1]
    assert future["skipped"][0]["reason"] == "is before 1970 or in the future"


def test_what_no_decision_may_hold_stays_behind_without_its_row(run: Run, tmp_path: Path):
    odd = samples.vllm_sr(
        1, selected_model="a", category="x" * 2_000, decision="nul\x00", session_id="s" * 300
    )
    file = samples.write_lines(tmp_path / "v.jsonl", odd)
    told = run("vllm-sr", file, "--policy", "chat")[1]
    assert told["decisions"] == 1
    assert any(one["field"] == "context" and one["rows"] == 2 for one in told["lost"])


def test_what_is_asked_for_wrongly_is_named(run: Run, tmp_path: Path):
    file = spend_log(tmp_path)
    for options, said, wanted in (
        ((), "give --policy P", 2),
        (("--policy", "chit"), "policy 'chit' does not exist", 1),
        (("--policy", "chat", "--project", "x"), "project 'x' does not exist", 1),
        (("--policy", "chat", "--arm", "gpt-4o"), "give NAME=NAME", 2),
        (("--policy", "chat", "--arm", "gpt-4o=z"), "'z' is no arm", 2),
        (("--policy", "chat", "--at", "noon"), "--at 'noon'", 2),
        (("--to-log", "x"), "--to-log needs --score", 2),
    ):
        code, _, err = run("litellm", file, *options)
        assert code == wanted, options
        assert said in err


def test_a_missing_file_is_named(run: Run, tmp_path: Path):
    code, _, err = run("obd", tmp_path / "nowhere.csv", "--policy", "chat")
    assert code == 1
    assert "nowhere.csv" in err


def test_a_table_for_a_replay_is_one_that_a_replay_reads(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entries = [
        samples.pair(n, model, custom_id=f"q{n}", feedback={"score": n % 2 if model == "x" else 1})
        for n in range(40)
        for model in ("x", "y")
    ]
    lonely = samples.pair(99, "x", custom_id="q99")
    file = samples.write_lines(tmp_path / "p.jsonl", *entries, lonely, entries[0])
    code, told, _ = run("openai", file, "--to-log", tmp_path / "log", "--score", "score")
    assert code == 0
    assert (told["queries"], told["answers"], told["models"]) == (41, 81, 2)
    assert told["queries_that_all_models_answered"] == 40
    assert told["skipped"][0]["rows"] == 1
    queries, outcomes = map(Path, told["files"])
    table = tables.read_table(queries, outcomes)
    assert (len(table), table.dropped, len(table.arms)) == (40, 1, 2)
    assert table.texts is not None
    assert table.texts[0] == "What is 12 * 7?"
    code = cli.main(
        ["replay", "--queries", str(queries), "--outcomes", str(outcomes), "--learner",
         "best_fixed", "--seeds", "1", "--reward", "score", "--json"]
    )  # fmt: skip
    assert code == 0
    assert json.loads(capsys.readouterr().out)["baselines"]["best_fixed"]["test_reward"] == 1.0


def test_people_read_what_came_and_what_did_not(
    run: Run, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    del run
    where = ("--project", world.project)
    code = importing.main(["litellm", str(spend_log(tmp_path)), *AS_ARMS, *where])
    said = capsys.readouterr().out
    assert code == 0
    assert "litellm: 6 records" in said
    assert "        6  without propensity" in said
    assert "        6  propensity: is not logged" in said
    assert "no learner and no gate reads" in said


def test_the_open_bandit_data_are_imported_with_their_propensities(
    run: Run, world: World, tmp_path: Path
):
    root = os.environ.get("POINTSMAN_BENCH_DATA")
    if root is None:
        pytest.skip("POINTSMAN_BENCH_DATA names no tables")
    path = Path(root) / "public" / "obd_bts_men.csv.gz"
    head = tmp_path / "head.csv"
    with gzip.open(path, "rt") as stream:
        rows = [next(stream) for _ in range(401)]
    head.write_text("".join(rows))
    with world.engine.begin() as connection:
        for item in range(34):
            registry.put_arm(
                connection, PUBLISHER, world.project_id, "main", arm(str(item)), now=NOW
            )
    declare(world, Metric("click", type="boolean"), reward=RewardFunction((Term("click"),)))
    told = run("obd", head, "--policy", "chat")[1]
    assert (told["decisions"], told["without_propensity"], told["feedback"]) == (400, 0, 400)
    found = joined(world)
    with head.open(newline="") as stream:
        there = list(csv.DictReader(stream))
    assert len(found) == 400
    assert sum(row.reward for row in found) == sum(float(row["click"]) for row in there)
    assert sorted(row.propensity for row in found) == sorted(
        float(row["propensity_score"]) for row in there
    )
    with world.engine.connect() as connection:
        assert interactions.counts(connection, world.policy.id)["decisions"] == 400


PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "importing.md").read_text()


def test_the_pages_options_and_formats_are_the_codes():
    parser = importing._parser()
    held = {option for action in parser._actions for option in action.option_strings}
    told = re.findall(r"^\| `(--[\w-]+)", PAGE, re.MULTILINE)
    assert set(told) == held - {"-h", "--help"}
    formats = re.findall(r"^\| `([\w-]+)` \| ", PAGE, re.MULTILINE)
    assert set(importing.KINDS) <= set(formats)


def test_the_pages_example_prints_what_it_says(
    run: Run, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    del run
    declare(world, Metric("score", range=(0.0, 1.0)))
    (text,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (said,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    arms = ("--arm", "gpt-4o=a", "--arm", "gpt-4o-mini=b", "--project", world.project)
    assert importing.main(["openai", str(file), "--policy", "chat", *arms]) == 0
    assert capsys.readouterr().out == said
