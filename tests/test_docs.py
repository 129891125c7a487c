"""What the documentation says is run: its code, its links, its variables."""

import re
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from controlplane.api.app import create_app
from controlplane.publishing import Publisher
from controlplane.settings import Settings as ControlPlaneSettings
from edge.arriving import CHAT_PATH
from edge.settings import Settings as EdgeSettings
from learners import best_fixed
from learners.contract import Spec
from learners.features import Schema

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
_CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\((?!https?://)([^)#]+)[^)]*\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_of(page: Path) -> str:
    return "\n".join(_CODE.findall(page.read_text()))


def run(code: str) -> str:
    ran = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4_000:] + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_exist(page: Path):
    missing = [
        link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_can_be_reached_from_the_index(page: Path):
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    assert page == index or page.resolve() in reached


def test_the_tutorial_prints_what_it_says():
    page = ROOT / "docs" / "tutorial" / "learn-from-a-log.md"
    said = re.search(r"^```text\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert said is not None
    expected, values = (
        {
            line.split(":")[0]: [float(part.strip("[],")) for part in line.split()[1:]]
            for line in text
        }
        for text in (said[1].splitlines(), run(code_of(page)).splitlines())
    )
    assert list(values) == list(expected) == ["best_fixed", "linucb", "gain"]
    for name, numbers in expected.items():
        assert values[name] == pytest.approx(numbers, abs=0.002)  # the sums of another machine
    assert values["gain"][1] > 0


def test_the_learner_of_the_how_to_learns_freezes_and_remembers():
    code = code_of(ROOT / "docs" / "how-to" / "write-a-learner.md")
    check = """
    from learners.features import Schema
    spec = Spec(schema=Schema(()), arms=("a", "b"))
    log = Interactions(
        arms=spec.arms,
        x=np.ones((4, 1)),
        eligible=np.ones((4, 2), dtype=bool),
        action=np.array([0, 1, 0, 1]),
        propensity=np.full(4, 0.5),
        reward=np.array([0.0, 1.0, 0.5, 0.5]),
        weight=np.ones(4),
    )
    state = learn(init(spec), log)
    assert freeze(state).scores(np.ones((1, 1))).tolist() == [[0.25, 0.75]]
    assert snapshot(restore(spec, snapshot(state))) == snapshot(state)
    assert init(spec).counts.tolist() == [0, 0]
    more = rearm(state, Spec(schema=spec.schema, arms=("c", "b")))
    assert freeze(more).scores(np.ones((1, 1))).tolist() == [[0.0, 0.75]]
    print("checked")
    """
    assert run(code + textwrap.dedent(check)) == "checked\n"


def test_the_learner_of_the_how_to_keeps_the_contract_when_it_is_entered(tmp_path: Path):
    code = code_of(ROOT / "docs" / "how-to" / "write-a-learner.md")
    (tmp_path / "plain_mean.py").write_text(code)
    suite = f"""
    import sys

    import pytest

    from learners import catalogue

    sys.path.append({str(tmp_path)!r})
    catalogue._MODULES["plain_mean"] = "plain_mean"
    catalogue.NAMES = tuple(catalogue._MODULES)
    options = ["-q", "-p", "no:cacheprovider", "-k", "plain_mean or catalogue"]
    sys.exit(pytest.main([*options, "tests/learners/test_contract.py"]))
    """
    assert " passed" in run(textwrap.dedent(suite))


def test_the_how_to_writes_all_that_the_contract_asks_for():
    code = code_of(ROOT / "docs" / "how-to" / "write-a-learner.md")
    spec = Spec(schema=Schema(()), arms=("a",))
    assert best_fixed.freeze(best_fixed.init(spec)).arms == spec.arms
    for name in ("init", "learn", "freeze", "rearm", "snapshot", "restore"):
        assert hasattr(best_fixed, name)
        assert f"\ndef {name}(" in code
    for name in ("PARAMS", "PROMISES"):
        assert hasattr(best_fixed, name)
        assert f"\n{name}: " in code


def test_every_setting_stands_in_the_reference():
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    names = [
        f"{settings.model_config['env_prefix']}{field.upper()}"
        for settings in (ControlPlaneSettings, EdgeSettings)
        for field in settings.model_fields
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def calls_of(part: str) -> set[str]:
    """The calls in the tables of a part of the HTTP reference."""
    text = (ROOT / "docs" / "reference" / "http-api.md").read_text()
    found = re.search(rf"^## {part}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", found[1], re.MULTILINE))


def test_the_reference_lists_the_control_planes_calls_and_no_other():
    engine = sa.create_engine("postgresql+psycopg://unused@/unused")  # opened only by a request
    app = create_app(ControlPlaneSettings(), engine, Publisher((), timedelta(days=1)))
    served = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert calls_of("Control plane") == served


def test_the_reference_lists_the_edges_calls_and_no_other():
    source = (ROOT / "edge" / "app.py").read_text().replace("CHAT_PATH", f'"{CHAT_PATH}"')
    routes = re.findall(r'web\.(get|post|put|delete)\("([^"]+)"', source)
    assert calls_of("Edge") == {f"{method.upper()} {path}" for method, path in routes}
