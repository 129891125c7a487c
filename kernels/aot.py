"""Compile the attention kernel ahead of time, for cards that this machine need not have.

``.venv-triton/bin/python -m kernels.aot --out DIR [--target gfx942,…] [--dtype fp16,…]
[--head-dim 32,…]`` writes code objects (hsaco, cubin) and a manifest; the same source gives the
same bytes. ``--json`` prints what was found of each, with the seconds it took.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

from kernels.attention import elf, objects
from kernels.attention.objects import CodeObject, Manifest
from kernels.attention.triton_flash import (
    DTYPES,
    HEAD_DIMS,
    Backend,
    Blocks,
    Dtype,
    kernel,
    precision,
    signature,
)

SOURCE = Path(__file__).parent / "attention" / "triton_kernel.py"
ALIGNMENT = 16
"""Bytes that each address given to a launch is a multiple of, which lets loads be wide."""


@dataclass(frozen=True, slots=True)
class Target:
    """A card's instruction set: its maker's back end, its name there, and threads of a warp."""

    backend: Backend
    arch: str | int
    warp_size: int


TARGETS: Mapping[str, Target] = {
    "gfx942": Target("hip", "gfx942", 64),
    "gfx90a": Target("hip", "gfx90a", 64),
    "gfx950": Target("hip", "gfx950", 64),
    "sm_90": Target("cuda", 90, 32),
}
"""MI300, MI200, MI350 and H100/H200, as their makers name them."""


@dataclass(frozen=True, slots=True)
class Built:
    """A code object, its bytes, and the seconds that compiling took."""

    about: CodeObject
    code: bytes
    seconds: float


def build(target: str, dtype: Dtype, head_dim: int, *, blocks: Blocks | None = None) -> Built:
    """Compile one kernel, without a card and without any cache.

    Raises:
        ValueError: The target, type or size is not one of ours.
        ModuleNotFoundError: Triton is not installed here.
    """
    if target not in TARGETS:
        raise ValueError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    if dtype not in DTYPES or head_dim not in HEAD_DIMS:
        raise ValueError(f"({dtype!r}, {head_dim}): types {DTYPES}, sizes of heads {HEAD_DIMS}")
    chosen, cut = TARGETS[target], blocks or Blocks()
    with uncached():
        started = perf_counter()
        compiled = _compile(chosen, dtype, head_dim, cut)
        seconds = perf_counter() - started
    code: bytes = compiled.asm["hsaco" if chosen.backend == "hip" else "cubin"]
    found = (_read_hsaco if chosen.backend == "hip" else _read_cubin)(compiled, code)
    about = CodeObject(
        file=f"attention-{target}-{dtype}-{head_dim}.{_suffix(chosen.backend)}",
        symbol=str(compiled.metadata.name),
        backend=chosen.backend,
        target=target,
        dtype=dtype,
        head_dim=head_dim,
        sha256=hashlib.sha256(code).hexdigest(),
        size=len(code),
        queries=cut.queries,
        keys=cut.keys,
        warps=cut.warps,
        stages=cut.stages,
        threads=cut.warps * chosen.warp_size,
        shared_bytes=int(compiled.metadata.shared),
        registers=found.registers,
        spills=found.spills,
        matrix_instructions=found.matrix_instructions,
        arguments=tuple(signature(dtype).items()),
    )
    return Built(about, code, seconds)


def _suffix(backend: Backend) -> str:
    """The suffix of a code object's file."""
    return "hsaco" if backend == "hip" else "cubin"


def _compile(target: Target, dtype: Dtype, head_dim: int, blocks: Blocks) -> Any:
    source = kernel()
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 -- only here is Triton needed
    from triton.compiler import ASTSource, compile  # noqa: A004, PLC0415

    constants = {
        "head_dim": head_dim,
        "queries": blocks.queries,
        "keys": blocks.keys,
        "precision": precision(dtype, target.backend),
        "widen": False,
    }
    types = signature(dtype)
    aligned = {
        (index,): [["tt.divisibility", ALIGNMENT]]
        for index, kind in enumerate(types.values())
        if kind.startswith("*")
    }
    return compile(
        ASTSource(source, types | dict.fromkeys(constants, "constexpr"), constants, aligned),
        target=GPUTarget(target.backend, target.arch, target.warp_size),
        options={"num_warps": blocks.warps, "num_stages": blocks.stages},
    )


@contextmanager
def uncached() -> Iterator[None]:
    """Compile anew, in a folder that goes away, and without lines of the source in the code.

    Lines carry this checkout's path, so that the same source would give other bytes elsewhere.
    """
    kernel()
    from triton import knobs  # noqa: PLC0415 -- only here is Triton needed

    with (
        tempfile.TemporaryDirectory() as folder,
        knobs.cache.scope(),
        knobs.compilation.scope(),
    ):
        knobs.cache.dir = folder
        knobs.compilation.always_compile = True
        knobs.compilation.disable_line_info = True
        yield


@dataclass(frozen=True, slots=True)
class Found:
    """What is read from a code object itself."""

    registers: dict[str, int]
    spills: dict[str, int]
    matrix_instructions: int


def _read_hsaco(compiled: Any, code: bytes) -> Found:
    (about,) = elf.kernels(code)
    return Found(
        registers={name: about[f".{name}_count"] for name in ("vgpr", "agpr", "sgpr")},
        spills={
            "vgpr": about[".vgpr_spill_count"],
            "sgpr": about[".sgpr_spill_count"],
            "bytes": about[".private_segment_fixed_size"],
        },
        matrix_instructions=len(re.findall(r"^\s+v_mfma_", compiled.asm["amdgcn"], re.MULTILINE)),
    )


def _read_cubin(compiled: Any, code: bytes) -> Found:
    from triton import knobs  # noqa: PLC0415 -- only here is Triton needed

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    used = {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", said)}
    return Found(
        registers={"registers": used["REG"]},
        # The kernel has no arrays of its own, so a stack holds only what did not fit.
        spills={"bytes": used["STACK"] + used["LOCAL"]},
        matrix_instructions=len(re.findall(r"\bwgmma\.mma_async\.", compiled.asm["ptx"])),
    )


def source_sha256() -> str:
    """Of the kernel's source."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def build_all(
    targets: Iterable[str],
    dtypes: Iterable[Dtype],
    head_dims: Iterable[int],
    *,
    say: Callable[[Built], object] = lambda _: None,
) -> list[Built]:
    """Compile each combination, in order."""
    found = []
    for target, dtype, head_dim in product(targets, dtypes, head_dims):
        found.append(build(target, dtype, head_dim))
        say(found[-1])
    return found


def write(folder: Path, built: Sequence[Built]) -> Manifest:
    """Write code objects and their manifest to a folder."""
    import triton  # noqa: PLC0415 -- what was built was built by it

    manifest = Manifest(
        triton=triton.__version__,
        source_sha256=source_sha256(),
        objects=tuple(one.about for one in built),
    )
    objects.write(folder, manifest, {one.about.file: one.code for one in built})
    return manifest


def _line(one: Built) -> str:
    about = one.about
    registers = ", ".join(f"{name} {count}" for name, count in about.registers.items())
    return (
        f"{about.file}: {about.size} bytes, {registers}, "
        f"spills {'yes' if about.spilled else 'none'}, shared {about.shared_bytes} bytes, "
        f"{about.matrix_instructions} matrix instructions, {one.seconds:.1f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 when a kernel spills."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--target", default=",".join(TARGETS), help="names with commas between")
    parser.add_argument("--dtype", default=",".join(get_args(Dtype)), help="fp32, fp16, bf16")
    parser.add_argument("--head-dim", default=",".join(map(str, HEAD_DIMS)))
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    given = parser.parse_args(argv)
    say = (lambda _: None) if given.json else (lambda one: _print(_line(one)))
    try:
        built = build_all(
            given.target.split(","),
            given.dtype.split(","),
            [int(one) for one in given.head_dim.split(",")],
            say=say,
        )
    except (ValueError, ModuleNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    write(given.out, built)
    if given.json:
        _print(json.dumps([asdict(one.about) | {"seconds": one.seconds} for one in built]))
    return 1 if any(one.about.spilled for one in built) else 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
