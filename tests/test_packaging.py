"""Our top-level names are plain words, so another distribution could install the same ones."""

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())


def test_no_other_distribution_installs_our_top_level_names():
    ours = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    installed = packages_distributions()
    others = {
        name: sorted(set(installed.get(name, ())) - {"pointsman"}) for name in [*ours, "bench"]
    }
    assert {name: found for name, found in others.items() if found} == {}


def test_the_package_cannot_be_uploaded_by_mistake():
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


def test_import_contracts_cover_every_package_of_the_wheel():
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(PYPROJECT["tool"]["importlinter"]["root_packages"]) == sorted(packages)
