"""What an encoder is made of, and the weights it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]

MAX_LAYERS = 48
MAX_HIDDEN = 4096
MAX_VOCAB = 1_000_000
MAX_POSITIONS = 131_072


class EncoderError(ValueError):
    """The encoder's configuration or weights cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A BERT encoder (Devlin et al. 2018, arXiv:1810.04805): post-norm, learned positions, GELU.

    Raises:
        EncoderError: a size is out of range, or ``hidden`` is no multiple of ``heads``.
    """

    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocab: int
    positions: int
    eps: float = 1e-12

    def __post_init__(self) -> None:
        limits = {
            "layers": MAX_LAYERS,
            "heads": self.hidden,
            "hidden": MAX_HIDDEN,
            "intermediate": 8 * MAX_HIDDEN,
            "vocab": MAX_VOCAB,
            "positions": MAX_POSITIONS,
        }
        for name, most in limits.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise EncoderError(f"{name} is {value}: give 1 to {most}")
        if self.hidden % self.heads:
            raise EncoderError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if not 0 < self.eps < 1:
            raise EncoderError(f"eps is {self.eps}: give a small positive number")

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


_FIELDS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
}
_FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


def read_config(found: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a Hugging Face ``config.json``, already parsed, describes.

    Raises:
        EncoderError: a field is missing, or asks for another kind of encoder than BERT.
    """
    for name, wanted in _FIXED.items():
        if found.get(name, wanted) != wanted:
            raise EncoderError(f"{name} is {found[name]!r}: only {wanted!r} can be built")
    missing = [name for name in _FIELDS.values() if not isinstance(found.get(name), int)]
    if missing:
        raise EncoderError(f"config.json has no whole number for {', '.join(missing)}")
    sizes = {ours: int(found[theirs]) for ours, theirs in _FIELDS.items()}
    return EncoderConfig(**sizes, eps=float(found.get("layer_norm_eps", 1e-12)))


def weight_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight that the encoder reads, in the checkpoint's own words."""
    hidden, wide = config.hidden, config.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab, hidden),
        "embeddings.position_embeddings.weight": (config.positions, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(config.layers):
        at = f"encoder.layer.{layer}"
        for part, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", wide, hidden),
            ("output.dense", hidden, wide),
        ):
            shapes[f"{at}.{part}.weight"] = (rows, columns)
            shapes[f"{at}.{part}.bias"] = (rows,)
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (hidden,)
    return shapes


def check_weights(weights: Weights, config: EncoderConfig) -> dict[str, NDArray[np.float32]]:
    """The weights that the encoder reads, as float32, under their names without ``bert.``.

    The first row of the token types, which single texts always get, is added to the positions.

    Raises:
        EncoderError: a weight is missing or has another shape than the configuration says.
    """
    bare = {name.removeprefix("bert."): value for name, value in weights.items()}
    kept: dict[str, NDArray[np.float32]] = {}
    for name, shape in weight_shapes(config).items():
        if name not in bare:
            raise EncoderError(f"the weights have no {name}")
        if bare[name].shape != shape:
            raise EncoderError(f"{name} has shape {bare[name].shape}, the config says {shape}")
        kept[name] = np.ascontiguousarray(bare[name], dtype=np.float32)
    types = bare.get("embeddings.token_type_embeddings.weight")
    if types is not None:
        table = "embeddings.position_embeddings.weight"
        kept[table] = kept[table] + np.asarray(types[0], dtype=np.float32)
    return kept


def random_weights(config: EncoderConfig, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights drawn as BERT draws its own: normal with deviation 0.02, norms near 1."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, NDArray[np.float32]] = {}
    for name, shape in weight_shapes(config).items():
        values = rng.normal(0.0, 0.02, shape).astype(np.float32)
        drawn[name] = values + 1 if name.endswith("LayerNorm.weight") else values
    return drawn
