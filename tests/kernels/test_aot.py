"""Compiling for cards that this machine does not have."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from kernels import aot
from kernels.attention import elf, objects
from kernels.attention.objects import Manifest, ObjectError
from kernels.attention.triton_flash import ARGUMENTS
from tests.kernels.triton_environment import PYTHON, ROOT, needs_triton, run

TARGETS = ("gfx942", "gfx90a", "gfx950", "sm_90")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists():
        pytest.skip("make test creates .venv-triton, and it is not there")
    out = tmp_path_factory.mktemp("objects")
    done = run("-m", "kernels.aot", "--out", str(out), "--dtype", "fp16", "--head-dim", "32")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return objects.read(folder)


def test_each_target_is_compiled_without_a_card_and_without_spills(manifest: Manifest):
    assert tuple(one.target for one in manifest.objects) == TARGETS
    assert [one.file for one in manifest.objects if one.spilled] == []
    assert manifest.triton == "3.6.0"
    assert manifest.source_sha256 == hashlib.sha256(aot.SOURCE.read_bytes()).hexdigest()


@pytest.mark.parametrize("target", TARGETS)
def test_products_run_on_the_matrix_units(manifest: Manifest, target: str):
    assert manifest.find(target, "fp16", 32).matrix_instructions > 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_launch_fits_the_card(manifest: Manifest, target: str):
    one = manifest.find(target, "fp16", 32)
    assert one.symbol == "flash_attention"
    assert one.threads == one.warps * (32 if target == "sm_90" else 64)
    assert 0 < one.shared_bytes <= 64 << 10  # what a compute unit of MI200 and MI300 has
    assert 0 < one.registers["registers" if target == "sm_90" else "vgpr"] <= 512


def test_the_manifest_says_what_the_code_object_itself_says(folder: Path, manifest: Manifest):
    one = manifest.find("gfx942", "fp16", 32)
    (about,) = elf.kernels(one.read(folder))
    assert about[".name"] == one.symbol
    assert about[".wavefront_size"] == 64
    assert about[".vgpr_count"] == one.registers["vgpr"]
    assert about[".max_flat_workgroup_size"] == one.threads


def test_the_arguments_lie_where_the_launcher_puts_them(folder: Path, manifest: Manifest):
    (about,) = elf.kernels(manifest.find("gfx942", "fp16", 32).read(folder))
    kinds = {"tensor": "global_buffer", "lengths": "global_buffer"}
    found = [(one[".value_kind"], one[".size"]) for one in about[".args"]]
    wanted = [(kinds.get(kind, "by_value"), 8 if kind in kinds else 4) for _, kind in ARGUMENTS]
    # Two addresses of scratch memory follow, which this kernel does not use.
    assert found[: len(wanted)] == wanted
    assert found[len(wanted) :] == [("global_buffer", 8)] * 2


@needs_triton
def test_the_same_source_gives_the_same_bytes_in_another_folder(
    folder: Path, manifest: Manifest, tmp_path: Path
):
    (tmp_path / "elsewhere").mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kernels", tmp_path / "elsewhere" / "kernels", ignore=ignore)
    paths = os.pathsep.join([str(tmp_path / "elsewhere"), os.environ.get("PYTHONPATH", "")])
    arguments = ["--dtype", "fp16", "--head-dim", "32", "--target", "gfx942,sm_90", "--json"]
    code = "import sys, kernels.aot as aot; sys.stderr.write(aot.__file__); sys.exit(aot.main())"
    done = run(
        "-P", "-c", code, "--out", str(tmp_path / "out"), *arguments, env={"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(tmp_path))
    again = {row["target"]: row["sha256"] for row in json.loads(done.stdout)}
    assert again == {one: manifest.find(one, "fp16", 32).sha256 for one in ("gfx942", "sm_90")}
    assert (tmp_path / "out" / "attention-gfx942-fp16-32.hsaco").read_bytes() == (
        folder / "attention-gfx942-fp16-32.hsaco"
    ).read_bytes()


@needs_triton
def test_an_unknown_target_is_refused_with_those_there_are(tmp_path: Path):
    done = run("-m", "kernels.aot", "--out", str(tmp_path), "--target", "gfx1")
    assert done.returncode == 2
    assert "no target 'gfx1': there are gfx942, gfx90a, gfx950, sm_90" in done.stderr


def test_a_changed_byte_is_refused(folder: Path, manifest: Manifest, tmp_path: Path):
    one = manifest.find("gfx942", "fp16", 32)
    code = bytearray((folder / one.file).read_bytes())
    code[100] ^= 1
    (tmp_path / one.file).write_bytes(code)
    with pytest.raises(ObjectError, match="its manifest says"):
        one.read(tmp_path)


def test_a_missing_target_is_refused_with_those_there_are(manifest: Manifest):
    with pytest.raises(ObjectError, match="targets here: gfx90a, gfx942, gfx950, sm_90"):
        manifest.find("gfx1100", "fp16", 32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest"),
        ('{"format": 9, "triton": "", "source_sha256": "", "objects": []}', "format is 9"),
        (" " * (objects.MAX_MANIFEST_BYTES + 1), "larger than"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, said: str):
    (tmp_path / objects.NAME).write_text(text)
    with pytest.raises(ObjectError, match=said):
        objects.read(tmp_path)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ObjectError, match=r"kernels\.aot --out"):
        objects.read(tmp_path)


@pytest.mark.parametrize("code", [b"", b"\x7fELF\x01\x01" + bytes(90), b"MZ" + bytes(100)])
def test_what_is_no_code_object_is_refused(code: bytes):
    with pytest.raises(ValueError, match="ELF"):
        elf.kernels(code)


def test_a_code_object_that_is_cut_off_is_refused(folder: Path, manifest: Manifest):
    code = manifest.find("gfx942", "fp16", 32).read(folder)
    with pytest.raises(ValueError, match="cut off"):
        elf.kernels(code[: len(code) // 2])
