"""What an owner of an AMD card is told, without one: on drivers and cards that are not there."""

import hashlib
import json
from pathlib import Path

import pytest

from kernels import rocm_claims
from kernels.attention import objects
from kernels.attention.objects import Manifest
from kernels.rocm_claims import CLAIMS, Claim, Figures, Machine, Refuted, Skipped
from kernels.signals.encoder import CAP
from kernels.verify_rocm import judge, main, verify
from tests.kernels.drivers import CODE, PretendCard
from tests.kernels.test_attention_launch import describe
from tests.kernels.triton_environment import ROOT, needs_triton


def list_card(folder: Path, version: int = 90402) -> Path:
    """What Linux would list, for a card of this version."""
    (folder / "nodes" / "1").mkdir(parents=True)
    text = f"cpu_cores_count 0\ngfx_target_version {version}\n"
    (folder / "nodes" / "1" / "properties").write_text(text)
    return folder / "nodes"


def store(folder: Path) -> Path:
    about = describe("hip")
    assert about.sha256 == hashlib.sha256(CODE).hexdigest()
    manifest = Manifest(triton="3.6.0", source_sha256="", objects=(about,))
    objects.write(folder / "objects", manifest, {about.file: CODE})
    return folder / "objects"


def with_card(folder: Path, pretend: PretendCard, **others) -> Machine:
    given = {"lookup": pretend.calls, "nodes": list_card(folder), "objects": store(folder)}
    return Machine(scratch=folder, **{**given, **others})


def find(name: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.name == name)


def test_without_an_amd_card_every_claim_is_skipped_with_the_reason(tmp_path: Path):
    found = verify(Machine(scratch=tmp_path, nodes=tmp_path / "nodes"))
    assert [one.claim for one in found] == [claim.name for claim in CLAIMS]
    assert {one.status for one in found} == {"SKIP"}
    assert all("no AMD card" in one.reason for one in found)


def test_a_claim_that_would_hold_is_skipped_too_without_a_card(tmp_path: Path):
    machine = Machine(scratch=tmp_path, nodes=tmp_path)
    found = judge(Claim("easy", "one is one", lambda _: {"one": 1.0}), machine)
    assert (found.status, found.figures) == ("SKIP", {})


def test_the_command_ends_well_where_all_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([], machine=Machine(scratch=tmp_path, nodes=tmp_path)) == 0
    assert f"0 PASS, 0 FAIL, {len(CLAIMS)} SKIP" in capsys.readouterr().out
    assert main(["--json"], machine=Machine(scratch=tmp_path, nodes=tmp_path)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["targets"] == []
    assert {one["status"] for one in said["verdicts"]} == {"SKIP"}


def test_a_claim_that_raises_has_failed_and_the_next_is_tried(tmp_path: Path):
    def broken(_: Machine) -> Figures:
        raise OSError("the bus is gone")

    claims = (Claim("broken", "it runs", broken), Claim("fine", "it runs", lambda _: {"ms": 2.0}))
    found = verify(Machine(scratch=tmp_path, nodes=list_card(tmp_path)), claims)
    assert [one.status for one in found] == ["FAIL", "PASS"]
    assert found[0].reason == "OSError: the bus is gone"
    assert found[1].figures == {"ms": 2.0}


def test_a_claim_that_is_refuted_keeps_its_figures_and_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def slow(_: Machine) -> Figures:
        raise Refuted("too slow", {"ratio": 0.5})

    def absent(_: Machine) -> Figures:
        raise Skipped("nothing to compare")

    claims = (Claim("slow", "it is fast", slow), Claim("absent", "it is there", absent))
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path))
    assert main([], machine=machine, claims=claims) == 1
    said = capsys.readouterr().out
    assert "FAIL  slow: it is fast\n      too slow; ratio 0.5" in said
    assert "SKIP  absent: it is there\n      nothing to compare" in said
    assert "0 PASS, 1 FAIL, 1 SKIP" in said


def test_a_card_that_computes_right_passes_and_gives_all_back(tmp_path: Path):
    pretend = PretendCard()
    names = ("card", "driver", "attention-fp32")
    with with_card(tmp_path, pretend) as machine:
        found = verify(machine, [find(name) for name in names])
    assert [(one.status, one.reason) for one in found] == [("PASS", "")] * 3
    assert found[1].figures["card"] == "Pretend 300"
    assert found[2].figures["largest_difference"] == pytest.approx(0.0, abs=1e-6)
    assert (pretend.memory, pretend.modules) == ({}, {})


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_card_that_computes_wrong_fails(tmp_path: Path, error: float):
    with with_card(tmp_path, PretendCard(error=error)) as machine:
        found = judge(find("attention-fp32"), machine)
    assert (found.status, found.reason) == ("FAIL", "the kernel differs from the oracle")
    largest = found.figures["largest_difference"]
    assert isinstance(largest, float)
    assert largest >= 0.01


def test_a_driver_that_sees_no_card_fails_its_claim_and_skips_the_kernels(tmp_path: Path):
    with with_card(tmp_path, PretendCard(cards=0)) as machine:
        opened, attention = (judge(find(name), machine) for name in ("driver", "attention-fp32"))
    assert opened.status == "FAIL"
    assert "error 100" in opened.reason
    assert attention.status == "SKIP"
    assert attention.reason.startswith("no driver: hipInit failed")


def test_a_card_that_no_kernel_is_built_for_is_skipped(tmp_path: Path):
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path, 110000))
    found = [judge(find(name), machine) for name in ("card", "driver", "attention-fp16")]
    assert [one.status for one in found] == ["SKIP"] * 3
    assert all("kernels are built for gfx942" in one.reason for one in found)


def test_a_folder_without_the_kernel_fails(tmp_path: Path):
    with with_card(tmp_path, PretendCard()) as machine:
        found = judge(find("attention-fp16"), machine)
    assert found.status == "FAIL"
    assert "no attention kernel for gfx942, fp16" in found.reason


@needs_triton
def test_kernels_for_the_card_are_built_where_none_are_given(tmp_path: Path):
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path))
    manifest = objects.read(machine.folder)
    assert {one.target for one in manifest.objects} == {"gfx942"}
    assert {one.dtype for one in manifest.objects} == {"fp32", "fp16", "bf16"}


def test_an_onnx_runtime_without_the_provider_is_skipped_with_the_remedy(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "MIGraphXExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has MIGraphX")
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path))
    for name in ("provider", "encoder-plain", "served-shapes", "encoder-speed"):
        found = judge(find(name), machine)
        assert found.status == "SKIP"
        assert "install onnxruntime-migraphx" in found.reason


@pytest.mark.parametrize("name", ["provider", "encoder-plain", "encoder-local"])
def test_the_claims_on_the_encoder_hold_on_a_processor(tmp_path: Path, name: str):
    """The checks themselves run: the processor stands in for the card."""
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path), provider="cpu", layers=1)
    found = judge(find(name), machine)
    assert (found.status, found.reason) == ("PASS", "")


def test_long_texts_are_measured_on_what_runs_them(tmp_path: Path):
    pretend = PretendCard()
    with with_card(tmp_path, pretend, provider="cpu", layers=1, long_tokens=256) as machine:
        speed, memory = (judge(find(name), machine) for name in ("encoder-speed", "encoder-memory"))
    # How fast a processor is says nothing of a card; that it was measured says that the check runs.
    assert speed.status in {"PASS", "FAIL"}
    assert set(speed.figures) == {"plain_ms", "blocklocal_ms", "ratio"}
    assert memory.status == "SKIP"
    assert "no memory held by the plain graph" in memory.reason


def test_the_shapes_of_requests_are_tried_and_a_provider_that_keeps_nothing_fails(tmp_path: Path):
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path), provider="cpu", layers=1)
    found = judge(find("served-shapes"), machine)
    assert (found.status, found.reason) == ("FAIL", "cpu kept nothing of what it compiled")
    assert found.figures["kept_files"] == 0
    assert found.figures["least_cosine"] == pytest.approx(1.0, abs=1e-5)
    figures = {"first_start_s", "second_start_s", "tokens_16_ms", f"tokens_{CAP}_ms"}
    assert figures <= set(found.figures)


@pytest.mark.parametrize(
    ("share", "status", "reason"),
    [(1e9, "PASS", ""), (0.0, "FAIL", "the second start compiled again")],
)
def test_what_is_kept_has_to_make_the_second_start_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, status: str, reason: str
):
    monkeypatch.setattr(rocm_claims, "MAX_START_SHARE", share)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "shape.mxr").write_bytes(b"as if a card had compiled it")
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path), provider="cpu", layers=1)
    found = judge(find("served-shapes"), machine)
    assert (found.status, found.reason) == (status, reason)
    assert found.figures["kept_files"] == 1


def test_a_graph_that_differs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rocm_claims, "MIN_COSINE", 1.1)  # what no graph reaches
    machine = Machine(scratch=tmp_path, nodes=list_card(tmp_path), provider="cpu", layers=1)
    found = judge(find("encoder-plain"), machine)
    assert (found.status, found.reason) == ("FAIL", "the graph differs from the oracle")
    assert found.figures["least_cosine"] == pytest.approx(1.0, abs=1e-3)


def test_each_claim_has_a_name_of_its_own():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)


def test_the_how_to_names_every_claim():
    text = (ROOT / "docs" / "how-to" / "verify-on-amd.md").read_text()
    assert [claim.name for claim in CLAIMS if f"`{claim.name}`" not in text] == []
