"""What is opened of a models folder: where it runs, what it keeps, and what it says."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from kernels.graphs.builder import build
from kernels.models import MANIFEST, NAME, WEIGHTS, ModelsError
from kernels.providers import Placement
from kernels.signals.opening import KEPT_IN, open_pipeline
from tests.kernels.encoders import TINY, spread
from tests.kernels.signals.pretend_card import Card
from tests.kernels.signals.small_models import lay

CHAT = [{"role": "user", "content": text} for text in ("a boat", "a sea", "Is a boat at sea?")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay(tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("scratch"))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


def test_a_card_is_told_its_number_its_precision_and_where_to_keep_what_it_compiles(
    root: Path, tmp_path: Path, card: Card
) -> None:
    placement = Placement(device=3, half=True, cache_dir=tmp_path / "kept")
    opened = open_pipeline(root, placement=placement)
    assert (opened.provider, opened.fallbacks, opened.notes) == ("migraphx", (), ())
    (told,) = card.options
    kept = Path(told.pop("migraphx_model_cache_dir"))
    assert told == {"device_id": "3", "migraphx_fp16_enable": "1"}
    assert kept.parent == tmp_path / "kept"
    assert kept.is_dir()
    assert kept.name.endswith(f"-{onnxruntime.__version__}-fp16")


def test_what_is_compiled_is_found_again_and_not_by_another_model_or_precision(
    root: Path, tmp_path: Path, card: Card
) -> None:
    other = lay(tmp_path / "other", tmp_path, seed=2)
    folder = tmp_path / "kept"
    for models, half in ((root, False), (root, False), (root, True), (other, False)):
        open_pipeline(models, placement=Placement(cache_dir=folder, half=half))
    first, again, halved, another = (told["migraphx_model_cache_dir"] for told in card.options)
    assert first == again
    assert len({first, halved, another}) == 3


def test_weights_that_are_damaged_are_not_served_by_a_card(tmp_path: Path, card: Card) -> None:
    root = lay(tmp_path / "damaged", tmp_path)
    path = root / NAME / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelsError, match="SHA-256 is another: run `pointsman models fetch`"):
        open_pipeline(root)
    assert card.options == []
    assert open_pipeline(root, require="cpu").provider == "cpu"


def test_a_graph_of_the_same_weights_has_the_same_bytes() -> None:
    weights = spread(TINY, seed=3)
    assert build(weights, TINY, "plain") == build(weights, TINY, "plain")


def test_a_card_meets_three_shapes_and_a_chat_asks_again_by_them(root: Path, card: Card) -> None:
    opened = open_pipeline(root)
    assert set(card.shapes) == {(1, 16), (1, 32), (1, 48)}
    warmed = len(card.shapes)
    found = opened.pipeline.read([*CHAT, CHAT[-1], {"role": "user", "content": "a boat " * 40}])
    assert len(card.shapes) > warmed
    assert set(card.shapes) == {(1, 16), (1, 32), (1, 48)}
    assert {"reask", "reask.cosine"} <= set(found)


def test_without_a_folder_nothing_is_kept_and_on_a_processor_none_is_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    opened = open_pipeline(root, placement=Placement(cache_dir=folder), require="cpu")
    assert (opened.provider, folder.exists()) == ("cpu", False)
    card = Card(monkeypatch)
    open_pipeline(root)
    assert card.options == [{"device_id": "0"}]
    assert not (root / KEPT_IN).exists()


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_card(
    root: Path, tmp_path: Path, card: Card
) -> None:
    (tmp_path / "file").write_text("no folder")
    opened = open_pipeline(root, placement=Placement(cache_dir=tmp_path / "file" / "kept"))
    assert opened.provider == "migraphx"
    assert card.options == [{"device_id": "0"}]
    (note,) = opened.notes
    assert "cannot keep what is compiled (Not a directory)" in note
    assert note.endswith("choose a folder that can be written")


def test_models_of_an_older_version_serve_and_say_so(tmp_path: Path) -> None:
    older = lay(tmp_path / "older", tmp_path)
    assert open_pipeline(older, require="cpu").notes == ()
    manifest = older / NAME / MANIFEST
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["recipe"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    opened = open_pipeline(older, require="cpu")
    (note,) = opened.notes
    assert "built by an older version of this program: run `pointsman models fetch`" in note
    assert "embedding" in opened.pipeline.read(CHAT)


def test_opening_and_reading_use_no_socket(root: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "opened = []\n"
        "def watch(name, args):\n"
        "    if name.startswith(('socket.', 'urllib.')):\n"
        "        raise RuntimeError(name)\n"
        "    if name == 'open':\n"
        "        opened.append(str(args[0]))\n"
        "sys.addaudithook(watch)\n"
        "from kernels.signals.opening import open_pipeline\n"
        f"found = open_pipeline(Path({str(root)!r}), require='cpu')\n"
        "signals = found.pipeline.read([{'role': 'user', 'content': 'Is a boat at sea?'}])\n"
        "assert 'embedding' in signals and 'language' in signals\n"
        "assert any(name.endswith('tokenizer.json') or name.endswith('.npy') for name in opened)\n"
        "assert not {'requests', 'huggingface_hub', 'robust_downloader'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=60,
    )
