import json
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from controlplane import cli, linting, registry
from controlplane.errors import InvalidError
from storage import lint_rows, tables
from storage.policies import StoredPolicy
from tests.controlplane.learning_world import NOW, PUBLISHER, World


def codes(world: World) -> set[tuple[str, str]]:
    with world.engine.connect() as connection:
        found = linting.lint_policy(connection, world.policy, now=NOW)
    return {(one.code, one.severity) for one in found.findings}


def test_a_policy_is_linted_by_its_newest_decisions(engine: sa.Engine) -> None:
    world = World(engine, config={"sources": {"trusted": ["judge"]}})
    assert "source-without-data" not in {code for code, _ in codes(world)}  # too early to say
    world.log(300)
    assert ("source-without-data", "warning") in codes(world)
    with engine.connect() as connection:
        seen = lint_rows.newest(connection, world.policy, NOW, limit=250)
    assert len(seen.contexts) == len(seen.eligible) == seen.values["error"] == 250
    assert seen.sources == {}
    world.add_arm("z")
    assert ("arm-never-eligible", "warning") in codes(world)


def test_what_shadows_were_asked_and_what_still_waits_is_left_out(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(20)
    with engine.begin() as connection:
        early = NOW - timedelta(hours=3)
        assert lint_rows.newest(connection, world.policy, early, limit=50).contexts == []
        connection.execute(sa.update(tables.decisions).values(mode="shadow"))
        assert lint_rows.newest(connection, world.policy, NOW, limit=50).contexts == []


def test_a_context_that_does_not_fit_is_no_reason_to_refuse(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(20)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.decisions).values(context={"length": "long"}))
    assert "version-cannot-choose" not in {code for code, _ in codes(world)}


def test_a_policy_that_could_not_serve_is_refused_and_the_rest_is_only_said(
    engine: sa.Engine,
) -> None:
    world = World(engine)
    assert codes(world)  # put all the same
    policy: StoredPolicy = world.policy
    with engine.begin() as connection:
        linting.refuse_breaking(connection, policy)
        broken = replace(policy, config={**policy.config, "fallback_arm": "gone"})
        with pytest.raises(InvalidError, match="gone") as refused:
            linting.refuse_breaking(connection, broken)
        assert refused.value.field == "fallback_arm"
        segments = {**policy.config["release"], "harm": {"feature": "mood"}}
        broken = replace(policy, config={**policy.config, "release": segments})
        with pytest.raises(InvalidError, match="'mood' is no category") as refused:
            linting.refuse_breaking(connection, broken)
        assert refused.value.field == "release.harm.feature"
        again = registry.put_policy(
            connection, PUBLISHER, world.project_id,
            name="chat", pool="main", config=world.settings(), now=NOW,
        )  # fmt: skip
    assert again.name == "chat"


def test_the_command_says_what_it_found(
    engine: sa.Engine,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    World(engine)
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", database_url)
    assert cli.main(["lint", "--policy", "chat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == 0
    assert told["warnings"] == len(told["findings"]) > 0
    assert cli.main(["lint", "--policy", "chat"]) == 0
    assert "warning: " in capsys.readouterr().out
    assert cli.main(["lint", "--policy", "nobody"]) == 2
    assert "'nobody' does not exist" in capsys.readouterr().err
