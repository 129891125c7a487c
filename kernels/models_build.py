"""What is built of the fetched weights: the 8-bit graph and the static table."""

import json
import platform
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from kernels.distil import Embed, Floats, distil
from kernels.models import CONFIG, ENCODER, TABLE, TOKENIZER, VARIANT, WEIGHTS, ModelsError

_MISSING = "building needs onnx, onnxruntime and tokenizers: pip install 'pointsman[models]'"


def build(folder: Path) -> None:
    """Write the encoder's graph and the table beside the weights; about half a minute.

    The graph is the variant that is fastest on short texts. It has no mask: texts go through it
    one by one, or several of one length, so nothing is padded and nothing needs to be masked.
    Whoever changes what is built here changes :data:`kernels.models.RECIPE` too.

    Raises:
        ModelsError: The extra ``models`` is not installed.
    """
    try:
        from kernels.graphs import builder, config, quantize  # noqa: PLC0415 — an extra
    except ImportError as error:
        raise ModelsError(_MISSING) from error
    sizes = config.read_config(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    weights = load_file(folder / WEIGHTS)
    packed = quantize.build_int8(weights, sizes, VARIANT, reduce_range=not multiplies_whole_bytes())
    (folder / ENCODER).write_bytes(packed)
    embed = _embedder(builder.build(weights, sizes, "flash"))
    table = distil(embed, vocabulary=sizes.vocab, frame=_frame(folder / TOKENIZER))
    np.save(folder / TABLE, table, allow_pickle=False)


def multiplies_whole_bytes() -> bool:
    """Whether this processor sums products of bytes without overflow (VNNI; Arm's always do).

    Where nobody can tell, the answer is no: a reduced range costs a little accuracy, an overflow
    much.
    """
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return True
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _frame(tokenizer: Path) -> tuple[int, int]:
    from tokenizers import Tokenizer  # noqa: PLC0415 — an extra

    opened = Tokenizer.from_file(str(tokenizer))
    before, after = opened.token_to_id("[CLS]"), opened.token_to_id("[SEP]")
    if before is None or after is None:
        raise ModelsError(f"{tokenizer} knows no [CLS] or no [SEP]: it is not MiniLM's")
    return before, after


def _embedder(graph: bytes) -> Embed:
    from kernels.providers import choose  # noqa: PLC0415 — an extra

    session = choose(graph, require="cpu").session

    def embed(ids: NDArray[np.int64]) -> Floats:
        found: Floats = session.run(["embedding"], {"input_ids": ids})[0]
        return found

    return embed
