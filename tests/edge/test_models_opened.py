"""The models of an edge: its settings reach the card, and what should be mended is logged."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from edge.metrics import Metrics
from edge.reading import open_reader
from edge.settings import Settings
from kernels.models import MANIFEST, NAME, encoder_of
from tests.edge.doubles import TRUSTED
from tests.kernels.signals.pretend_card import Card
from tests.kernels.signals.small_models import lay


def settings(**more: Any) -> Settings:
    needed = {"control_plane_url": "http://127.0.0.1:9", "api_key": "k", "trusted_keys": TRUSTED}
    return Settings(**{**needed, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lay(tmp_path / "models", tmp_path)


def test_a_card_keeps_what_it_compiles_beside_the_models(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch)
    reader = open_reader(settings(models=root), Metrics())
    assert reader.encoder == encoder_of(root)
    (told,) = card.options
    assert told["device_id"] == "0"
    assert "migraphx_fp16_enable" not in told
    kept = Path(told["migraphx_model_cache_dir"])
    assert kept.parent == root / "compiled"
    assert kept.name.endswith(f"-{onnxruntime.__version__}-fp32")


def test_the_card_its_precision_and_its_folder_are_settings(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch)
    for name, value in {
        "DEVICE": "5",
        "HALF_PRECISION": "true",
        "COMPILED_DIR": str(tmp_path / "kept"),
    }.items():
        monkeypatch.setenv(f"POINTSMAN_EDGE_{name}", value)
    open_reader(settings(models=root), Metrics())
    (told,) = card.options
    assert (told["device_id"], told["migraphx_fp16_enable"]) == ("5", "1")
    assert Path(told["migraphx_model_cache_dir"]).parent == tmp_path / "kept"


@pytest.mark.parametrize("device", [-1, 64])
def test_a_card_out_of_range_is_refused(device: int) -> None:
    with pytest.raises(ValidationError, match="device"):
        settings(device=device)


def test_models_of_an_older_version_serve_with_a_warning_that_names_the_remedy(root: Path) -> None:
    manifest = root / NAME / MANIFEST
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["recipe"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with capture_logs() as logged:
        reader = open_reader(settings(models=root, require_provider="cpu"), Metrics())
    assert reader.encoder == encoder_of(root)
    (note,) = (row for row in logged if row["event"] == "models.note")
    assert note["log_level"] == "warning"
    assert "older version of this program: run `pointsman models fetch`" in note["reason"]
