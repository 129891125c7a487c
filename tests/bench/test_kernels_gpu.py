"""What the benchmark of cards says without one, and on cards that are not there."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from bench import kernels_gpu
from bench.kernels_gpu import measures
from bench.measure import Measure, main
from kernels.attention import driver, objects, trials
from kernels.attention.driver import Card
from kernels.attention.objects import Manifest
from kernels.attention.triton_flash import Backend, signature
from tests.kernels.drivers import CODES, PretendCard
from tests.kernels.test_attention_launch import BACKENDS, TARGETS, describe
from tests.kernels.triton_environment import needs_triton

TOKENS = 128


def store(folder: Path, backend: Backend) -> Path:
    """A folder with a code object of each number type."""
    made = [
        replace(
            describe(backend, code),
            file=f"{dtype}.bin",
            dtype=dtype,
            sha256=hashlib.sha256(code).hexdigest(),
            arguments=tuple(signature(dtype).items()),
        )
        for code, dtype in CODES.items()
    ]
    manifest = Manifest(triton="3.6.0", source_sha256="", objects=tuple(made))
    objects.write(folder, manifest, {f"{dtype}.bin": code for code, dtype in CODES.items()})
    return folder


def on(pretend: PretendCard, backend: Backend, folder: Path | None) -> dict[str, Measure]:
    with Card(backend, lookup=pretend.calls, target=TARGETS[backend]) as card:
        found = measures(card, folder, quick=True, tokens=TOKENS)
    return {one.measure.split(": ")[1]: one for one in found}


@pytest.fixture
def no_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS:
        monkeypatch.setitem(driver.LIBRARIES, backend, (f"nowhere/{backend}.so",))


@pytest.mark.usefixtures("no_drivers")
def test_without_a_card_it_is_said_why_and_nothing_is_measured(capsys: pytest.CaptureFixture[str]):
    assert main(kernels_gpu.run, ["--json"]) == 0
    said = capsys.readouterr()
    assert said.out == "[]\n"
    assert "no cuda card is measured: NVIDIA's driver is not installed here" in said.err
    assert "no hip card is measured: AMD's ROCm is not installed here" in said.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_card_is_measured_by_its_own_driver(backend: Backend, tmp_path: Path):
    pretend = PretendCard()
    found = on(pretend, backend, store(tmp_path, backend))
    differences = [f"largest difference to the float64 oracle, {one}" for one in CODES.values()]
    assert list(found) == [
        *differences,
        f"attention within ±64 of {TOKENS} tokens, fp16",
        f"memory of a launch over {TOKENS} tokens beside its arrays",
    ]
    assert all(found[name].holds for name in differences)
    # Numbers were rounded on their way, each type as much as it must be.
    worst = [found[name].value for name in differences]
    assert 0 < worst[0] < worst[1] < worst[2]
    *_, near, memory = found.values()
    assert near.value > 0
    assert memory.value == 0
    assert memory.holds
    # Three rounds and one that warms up, of ten launches each, with a window and without.
    long = [shape for shape in pretend.launches if shape[1] == trials.HEADS]
    assert len(long) == 2 * 4 * 10 + 1
    assert (pretend.memory, pretend.modules, pretend.retained) == ({}, {}, 0)


def test_a_card_that_computes_wrong_misses_its_goals(tmp_path: Path):
    found = on(PretendCard(error=0.05), "cuda", store(tmp_path, "cuda"))
    missed = [name for name, one in found.items() if one.holds is False and "oracle" in name]
    assert len(missed) == len(CODES)


def test_a_card_that_no_kernel_is_built_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with Card("cuda", lookup=PretendCard(capability=(8, 6)).calls) as card:
        assert measures(card, tmp_path, quick=True) == []
    assert "Pretend 300 is sm_86: kernels are built for gfx942" in capsys.readouterr().err


def test_a_card_without_triton_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(trials, "TRITON", tmp_path / "python")
    assert on(PretendCard(), "cuda", None) == {}
    assert "is not there: make test creates it; or give --objects" in capsys.readouterr().err


@needs_triton
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_compiler_makes_is_what_is_launched(backend: Backend, tmp_path: Path):
    folder = trials.build(TARGETS[backend], tmp_path)
    made = objects.read(folder).objects
    codes = {one.read(folder): one.dtype for one in made}
    pretend = PretendCard(codes=codes, queries=made[0].queries)
    found = on(pretend, backend, folder)
    assert len(codes) == 3
    assert all(one.holds for name, one in found.items() if "oracle" in name)
    threads, shared = {one.threads for one in made}, {one.shared_bytes for one in made}
    assert {shape[3] for shape in pretend.launches} == threads
    assert {shape[6] for shape in pretend.launches} == shared
