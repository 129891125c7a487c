"""Code objects of the attention kernel in a folder, with a manifest that says what each one is.

Written by :mod:`kernels.aot`, read where they are launched: no Triton is needed for that.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kernels.attention.triton_flash import HEAD_DIMS, Backend, Dtype

NAME = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_OBJECT_BYTES = 16 << 20


class ObjectError(Exception):
    """A folder of code objects cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CodeObject:
    """One kernel, compiled for one target, one number type and one size of a head.

    ``registers``: of a thread (``vgpr``, of which ``agpr``; ``sgpr`` of a wave; or ``registers``).
    ``spills``: what did not fit in registers, by where it went: registers' count or bytes.
    ``matrix_instructions``: how many MFMA or WGMMA instructions the code holds.
    """

    file: str
    symbol: str
    backend: Backend
    target: str
    dtype: Dtype
    head_dim: int
    sha256: str
    size: int
    queries: int
    keys: int
    warps: int
    stages: int
    threads: int
    shared_bytes: int
    registers: dict[str, int]
    spills: dict[str, int]
    matrix_instructions: int
    arguments: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(f"file is {self.file!r}: a name in the manifest's own folder")
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(f"head_dim is {self.head_dim}: one of {HEAD_DIMS}")
        if not 0 < self.size <= MAX_OBJECT_BYTES:
            raise ValueError(f"size is {self.size}: 1…{MAX_OBJECT_BYTES} bytes")
        if not 0 < self.threads <= 1024:
            raise ValueError(f"threads is {self.threads}: 1…1024")
        if not 0 <= self.shared_bytes <= 256 << 10:
            raise ValueError(f"shared_bytes is {self.shared_bytes}: 0…{256 << 10}")

    @property
    def spilled(self) -> bool:
        """Whether anything did not fit in registers."""
        return any(self.spills.values())

    def read(self, folder: Path) -> bytes:
        """The code, checked against its size and checksum.

        Raises:
            ObjectError: The file is missing or is not what the manifest says.
        """
        path = folder / self.file
        try:
            with path.open("rb") as file:
                code = file.read(self.size + 1)
        except OSError as error:
            raise ObjectError(f"cannot read {path}: {error}; build it again") from error
        found = hashlib.sha256(code).hexdigest()
        if found != self.sha256:
            raise ObjectError(
                f"{path} has sha256 {found}, its manifest says {self.sha256}: build it again"
            )
        return code


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder holds. ``source_sha256`` is of the kernel's source."""

    triton: str
    source_sha256: str
    objects: tuple[CodeObject, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}: this version reads {FORMAT}; build again")

    def find(self, target: str, dtype: Dtype, head_dim: int) -> CodeObject:
        """The code object for a target.

        Raises:
            ObjectError: There is none; the message lists the targets there are.
        """
        for one in self.objects:
            if (one.target, one.dtype, one.head_dim) == (target, dtype, head_dim):
                return one
        there = ", ".join(sorted({one.target for one in self.objects})) or "none"
        raise ObjectError(
            f"no attention kernel for {target}, {dtype}, heads of {head_dim}; targets here: {there}"
        )


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ObjectError: There is none, or it is not one of ours.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ObjectError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        return msgspec.json.decode(raw, type=Manifest)
    except OSError as error:
        raise ObjectError(
            f"cannot read {path}: {error}; make it with "
            f".venv-triton/bin/python -m kernels.aot --out {folder}"
        ) from error
    except msgspec.ValidationError as error:
        raise ObjectError(f"{path} is not a manifest of attention kernels: {error}") from error
    except msgspec.DecodeError as error:
        raise ObjectError(f"{path} is not JSON: {error}") from error


def write(folder: Path, manifest: Manifest, codes: Mapping[str, bytes]) -> None:
    """Write code objects by file name, then the manifest: the same bytes for the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in codes.items():
        (folder / name).write_bytes(code)
    encoded = msgspec.json.encode(manifest, order="sorted")
    (folder / NAME).write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")
