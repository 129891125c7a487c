"""The launcher, on drivers that are not there, and on a card where there is one."""

import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels.attention import driver, launch, objects, reference
from kernels.attention.driver import Card, DriverError
from kernels.attention.launch import Addresses, Attention, Packed
from kernels.attention.objects import CodeObject, Manifest, ObjectError
from kernels.attention.trials import BOUNDS, as_type, from_type
from kernels.attention.triton_flash import LOG2_E, Backend, Blocks, Problem, signature
from tests.kernels.drivers import CODE, PretendCard
from tests.kernels.triton_environment import PYTHON, run

TARGETS: dict[Backend, str] = {"hip": "gfx942", "cuda": "sm_90"}
BACKENDS: tuple[Backend, ...] = ("hip", "cuda")


def describe(backend: Backend, code: bytes = CODE, *, shared_bytes: int = 8192) -> CodeObject:
    cut = Blocks()
    return CodeObject(
        file="kernel.bin",
        symbol="flash_attention",
        backend=backend,
        target=TARGETS[backend],
        dtype="fp32",
        head_dim=32,
        sha256=hashlib.sha256(code).hexdigest(),
        size=len(code),
        queries=cut.queries,
        keys=cut.keys,
        warps=cut.warps,
        stages=cut.stages,
        threads=cut.warps * (64 if backend == "hip" else 32),
        shared_bytes=shared_bytes,
        registers={},
        spills={},
        matrix_instructions=1,
        arguments=tuple(signature("fp32").items()),
    )


def store(folder: Path, about: CodeObject, code: bytes = CODE) -> Path:
    manifest = Manifest(triton="3.6.0", source_sha256="", objects=(about,))
    objects.write(folder, manifest, {about.file: code})
    return folder


def draw(*shape: int):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_launch_gives_each_argument_where_the_card_reads_it(backend: Backend, tmp_path: Path):
    pretend = PretendCard()
    folder = store(tmp_path, describe(backend))
    parts, lengths = draw(2, 3, 70, 32), np.array([70, 0])
    target = TARGETS[backend] if backend == "hip" else None
    with Card(backend, lookup=pretend.calls, target=target) as card:
        found = launch.load(card, folder, "fp32", 32).attend(
            *parts, lengths=lengths, window=4, scale=0.3
        )
    wanted = reference.attend(*parts, lengths=lengths, window=4, scale=0.3)
    assert found == pytest.approx(wanted, abs=1e-6)
    threads = 256 if backend == "hip" else 128
    assert pretend.launches == [(2, 6, 1, threads, 1, 1, 8192)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_that_was_taken_goes_back(backend: Backend, tmp_path: Path):
    pretend = PretendCard()
    folder = store(tmp_path, describe(backend))
    with Card(backend, lookup=pretend.calls, target=TARGETS[backend]) as card:
        launch.load(card, folder, "fp32", 32).attend(*draw(1, 1, 9, 32))
        assert pretend.memory == {}  # a launch's own arrays go at once
        card.allocate(100)
        assert card.free_bytes() == (1 << 30) - 100
    assert (pretend.memory, pretend.modules, pretend.retained) == ({}, {}, 0)


def test_a_failed_launch_gives_its_memory_back(tmp_path: Path):
    pretend = PretendCard(fail={"ModuleLaunchKernel": 701})
    folder = store(tmp_path, describe("hip"))
    with Card("hip", lookup=pretend.calls, target="gfx942") as card:
        attention = launch.load(card, folder, "fp32", 32)
        with pytest.raises(DriverError, match="hipModuleLaunchKernel failed with error 701"):
            attention.attend(*draw(1, 1, 9, 32))
        assert pretend.memory == {}


def test_cuda_is_asked_for_more_shared_memory_than_it_gives_by_itself(tmp_path: Path):
    pretend = PretendCard()
    folder = store(tmp_path, describe("cuda", shared_bytes=64 << 10))
    with Card("cuda", lookup=pretend.calls) as card:
        launch.load(card, folder, "fp32", 32).attend(*draw(1, 1, 9, 32))
    assert pretend.shared_allowed == 64 << 10


def test_cudas_card_says_its_own_target_and_name():
    with Card("cuda", lookup=PretendCard(capability=(8, 6)).calls) as card:
        assert (card.target, card.name) == ("sm_86", "Pretend 300")


def test_no_call_has_a_name_of_the_other_maker():
    for backend in BACKENDS:
        pretend = PretendCard()
        Card(backend, lookup=pretend.calls, target=TARGETS[backend]).close()
        prefix = "hip" if backend == "hip" else "cu"
        assert [name for name in pretend.names if not name.startswith(prefix)] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_driver_without_a_card_says_what_to_look_at(backend: Backend):
    with pytest.raises(DriverError, match=r"error 100 \(errorNumber100\): no card: is it visible"):
        Card(backend, lookup=PretendCard(cards=0).calls, target=TARGETS[backend])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_code_object_that_the_card_refuses_is_explained(backend: Backend, tmp_path: Path):
    about = describe(backend, b"of another card, with as many bytes")
    store(tmp_path, about, b"of another card, with as many bytes")
    with (
        Card(backend, lookup=PretendCard().calls, target=TARGETS[backend]) as card,
        pytest.raises(DriverError, match=r"ModuleLoadData failed with error 209.*--target"),
    ):
        Attention(card, about, tmp_path)


def test_a_call_that_a_library_lacks_is_named():
    with pytest.raises(DriverError, match="the driver has no hipInit"):
        Card("hip", lookup=driver.lookup_in(ctypes.CDLL(None)), target="gfx942")


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(driver.LIBRARIES, "hip", ("nowhere/libamdhip64.so",))
    with pytest.raises(DriverError, match=r"AMD's ROCm is not installed.*nowhere/libamdhip64\.so"):
        driver.find_library("hip")


def test_a_card_is_known_by_what_linux_lists(tmp_path: Path):
    # Nodes 0 and 1 are processors, 2 is kept from this user, 10 comes after 3.
    for node, version in ((0, 0), (1, 0), (10, 90010), (3, 90402), (4, 90500), (5, 110000)):
        (tmp_path / str(node)).mkdir()
        text = f"cpu_cores_count 0\ngfx_target_version {version}\nsimd_count 304\n"
        (tmp_path / str(node) / "properties").write_text(text)
    (tmp_path / "2" / "properties").mkdir(parents=True)
    assert driver.amd_targets(tmp_path) == ["gfx942", "gfx950", "gfx1100", "gfx90a"]
    assert driver.amd_targets(tmp_path / "nothing") == []


def test_arguments_are_packed_in_the_order_of_the_kernel():
    at = Addresses(query=16, key=32, value=48, lengths=64, out=80)
    packed = Packed(Problem(2, 3, 70, 32, window=5), at)
    types = [ctypes.c_uint64] * 5 + [ctypes.c_int32] * 3 + [ctypes.c_float] + [ctypes.c_uint64] * 2
    found = [
        ctypes.cast(address, ctypes.POINTER(kind))[0]
        for address, kind in zip(packed.pointers, types, strict=True)
    ]
    assert found[:8] == [16, 32, 48, 64, 80, 3, 70, 5]
    assert found[8] == pytest.approx(32**-0.5 * LOG2_E)
    assert found[9:] == [0, 0]


@pytest.mark.parametrize("address", [0, 8, -16])
def test_addresses_that_the_kernel_cannot_load_from_are_refused(address: int):
    with pytest.raises(ValueError, match="key lies at"):
        Addresses(query=16, key=address, value=16, lengths=16, out=16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "gfx90a"}, "built for gfx90a, this card is gfx942"),
        ({"arguments": (("query", "*fp32"),)}, "build it again"),
    ],
)
def test_a_code_object_of_another_kind_is_refused(change, said: str, tmp_path: Path):
    with (
        Card("hip", lookup=PretendCard().calls, target="gfx942") as card,
        pytest.raises(ValueError, match=said),
    ):
        Attention(card, replace(describe("hip"), **change), tmp_path)


def test_arrays_of_another_type_or_size_are_refused(tmp_path: Path):
    folder = store(tmp_path, describe("hip"))
    with Card("hip", lookup=PretendCard().calls, target="gfx942") as card:
        attention = launch.load(card, folder, "fp32", 32)
        with pytest.raises(ValueError, match="an array is float64"):
            attention.attend(*(part.astype(np.float64) for part in draw(1, 1, 9, 32)))
        with pytest.raises(ValueError, match="head_dim is 64"):
            attention.attend(*draw(1, 1, 9, 64))
        with pytest.raises(ObjectError, match="no attention kernel for gfx942, fp16"):
            launch.load(card, folder, "fp16", 32)


@pytest.fixture
def real_card() -> Iterator[Card]:
    reasons = []
    for backend in BACKENDS:
        try:
            card = Card(backend)
        except DriverError as error:
            reasons.append(str(error))
            continue
        with card:
            yield card
        return
    pytest.skip(f"no card here: {'; '.join(reasons)}")


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS.items())
def test_the_card_agrees_with_the_oracle(real_card: Card, dtype, bound: float, tmp_path: Path):
    if not PYTHON.exists():
        pytest.skip("make test creates .venv-triton, and it is not there")
    out = str(tmp_path)
    built = run("-m", "kernels.aot", "--out", out, "--target", real_card.target, "--dtype", dtype)
    if built.returncode == 2:
        pytest.skip(f"kernels are not built for this card: {built.stderr}")
    for head_dim, tokens, window in ((32, 333, None), (64, 200, 64), (32, 64, 0)):
        parts = draw(2, 3, tokens, head_dim)
        given = [as_type(part, dtype) for part in parts]
        rounded = [from_type(part, dtype) for part in given]
        lengths = np.array([tokens, tokens // 2])
        attention = launch.load(real_card, tmp_path, dtype, head_dim)
        found = from_type(attention.attend(*given, lengths=lengths, window=window), dtype)
        wanted = reference.attend(*rounded, lengths=lengths, window=window)
        assert np.abs(found - wanted).max() <= bound
