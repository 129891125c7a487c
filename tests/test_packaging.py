"""What is installed: the names, and the wheel with its base dependencies alone."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SERVER_ONLY = ("alembic", "celery", "fastapi", "psycopg", "redis", "river", "sqlalchemy")
MIGRATE = """
import sys
import storage.migrate
print(storage.migrate.migrations_dir())
storage.migrate.migrate(sys.argv[1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run((sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents: what an installation adds to ``site-packages``."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def base_only(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the wheel and its base dependencies, and to nothing else of this environment."""
    folder = tmp_path_factory.mktemp("base")
    for found in unpacked.iterdir():
        (folder / found.name).symlink_to(found)
    for name in closure(PYPROJECT["project"]["dependencies"]):
        link_files(name, folder)
    return folder


def closure(requirements: list[str]) -> set[str]:
    """The names of the distributions that the requirements need on this machine."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and requirement.name not in found:
            found.add(requirement.name)
            waiting += map(Requirement, distribution(requirement.name).requires or ())
    return found


def link_files(name: str, folder: Path) -> None:
    files = distribution(name).files or ()
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        link = folder / top
        if not link.exists():
            link.symlink_to(Path(str(distribution(name).locate_file(top))).resolve())


def run(
    command: tuple[str, ...], *, cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def test_no_other_distribution_installs_our_top_level_names():
    installed = packages_distributions()
    others = {
        name: sorted(set(installed.get(name, ())) - {"pointsman"}) for name in [*PACKAGES, "bench"]
    }
    assert {name: found for name, found in others.items() if found} == {}


def test_the_package_cannot_be_uploaded_by_mistake():
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


def test_import_contracts_cover_every_package_of_the_wheel():
    assert sorted(PYPROJECT["tool"]["importlinter"]["root_packages"]) == sorted(PACKAGES)


def test_every_direct_dependency_has_its_row_in_the_documentation():
    project = PYPROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {Requirement(text).name for group in groups for text in group}
    rows = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(direct)


def test_the_wheel_holds_our_packages_and_nothing_else(unpacked: Path):
    found = {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"}
    assert found == set(PACKAGES)
    assert all((unpacked / package / "py.typed").exists() for package in PACKAGES)


def test_every_module_of_the_edge_runs_on_the_base_dependencies(base_only: Path):
    names = [f"edge.{path.stem}" for path in sorted((base_only / "edge").glob("*.py"))]
    run_with_base("".join(f"import {name}\n" for name in names), base_only)


def test_the_edges_command_runs_on_the_base_dependencies(base_only: Path):
    command = PYPROJECT["project"]["scripts"]["pointsman-edge"].replace(":", " import ")
    script = f"from {command}\nimport sys\nsys.argv = ['pointsman-edge', '--help']\nmain()"
    assert "pointsman-edge" in run_with_base(script, base_only)


def run_with_base(script: str, base_only: Path) -> str:
    absent = (
        "import importlib.util\n"
        f"assert not [name for name in {SERVER_ONLY} if importlib.util.find_spec(name)]\n"
    )
    environ = {"PYTHONPATH": str(base_only), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (sys.executable, "-S", "-c", absent + script)
    return run(command, cwd=base_only, environ=environ).stdout


def test_the_wheel_carries_the_migrations_and_runs_them(
    unpacked: Path, tmp_path: Path, empty_database_url: str
):
    ran = run(
        (sys.executable, "-c", MIGRATE, empty_database_url),
        cwd=tmp_path,
        environ={"PYTHONPATH": str(unpacked)},
    )
    assert ran.stdout.strip() == str(unpacked / "storage" / "_migrations")
    revisions = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert {
        path.name for path in (unpacked / "storage" / "_migrations" / "versions").glob("*.py")
    } == (revisions)


@pytest.mark.soak
def test_the_wheel_installs_into_a_fresh_environment(wheel: Path, tmp_path: Path):
    uv = shutil.which("uv", path=os.pathsep.join((str(ROOT / ".uv" / "bin"), os.environ["PATH"])))
    if uv is None:
        pytest.skip("uv is not installed: make test installs it into .uv/")
    run((uv, "venv", "--python", sys.executable, "fresh"), cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    run((uv, "pip", "install", "--python", str(python), str(wheel)), cwd=tmp_path)
    ran = run((str(python.with_name("pointsman-edge")), "--help"), cwd=tmp_path)
    assert "pointsman-edge" in ran.stdout
    listed = run((uv, "pip", "list", "--python", str(python)), cwd=tmp_path).stdout
    assert not {line.split()[0] for line in listed.splitlines()} & set(SERVER_ONLY)
