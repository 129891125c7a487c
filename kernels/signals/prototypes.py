"""A head without any label: each class is the mean of a few phrases that say what it means.

It is where a head starts from that no feedback has taught yet (nearest class mean, as in prototype
networks: Snell et al. 2017, arXiv:1703.05175). The phrases are our own. What is learnt from labels
replaces it as soon as it is better.

The means come with the program, so that no encoder is needed where heads are put into bundles.
They depend on the encoder: :data:`ENCODER` names the one that they were computed with.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from kernels.models import MINILM, WEIGHTS, encoder_name
from kernels.signals.heads import Head

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]
"""Texts → vectors ``(n, d)`` of length 1."""

SHARPNESS = 12.0
"""What cosines are multiplied by: they lie close together, chances should not."""
FEATURE = "embedding"
"""The vector that the shipped means are of: of the last turn of the user."""
ENCODER = encoder_name(MINILM.files[WEIGHTS].sha256)
FILE = "prototypes.safetensors"

FEEDBACK: Mapping[str, tuple[str, ...]] = {
    "satisfied": (
        "Thank you, that is exactly what I needed.",
        "Perfect, it works now.",
        "Great answer, very helpful.",
        "Yes, that solved my problem.",
        "Wonderful, thanks a lot!",
    ),
    "needs_clarification": (
        "I do not understand, can you explain that again?",
        "What do you mean by that?",
        "Could you clarify the second step?",
        "Please explain in more detail how that works.",
        "Why is that so? I am confused.",
    ),
    "wrong_answer": (
        "That is wrong.",
        "No, this answer is incorrect.",
        "You made a mistake in the calculation.",
        "It does not work, I still get an error.",
        "That is not true, check the facts again.",
    ),
    "wants_different": (
        "Give me another version instead.",
        "Please rewrite it in a different style.",
        "I would prefer something shorter.",
        "Can you suggest a different approach?",
        "Not this one, show me other options.",
    ),
}
"""What a turn says of the answer before it; it means something only after an answer."""


def prototype_head(
    name: str,
    phrases: Mapping[str, Sequence[str]],
    embed: Embed,
    *,
    feature: str = FEATURE,
    sharpness: float = SHARPNESS,
) -> Head:
    """A softmax head of cosines to each class's mean phrase.

    Args:
        name: the head's.
        phrases: some for each class.
        embed: what makes the feature of a text.
        feature: name of that vector.
        sharpness: the inverse of a temperature.

    Raises:
        ValueError: A class has no phrase.
    """
    if not all(phrases.values()):
        raise ValueError(f"head {name!r}: each class needs a phrase at least")
    means = np.stack([embed(list(own)).mean(axis=0) for own in phrases.values()])
    # What all classes share says nothing of any: only the differences are kept.
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    weights = (sharpness * means).astype(np.float32)
    bias = np.zeros(len(weights), dtype=np.float32)
    return Head(name, tuple(phrases), feature, weights, bias)


@cache
def shipped() -> Floats:
    """The weights of :data:`FEEDBACK`'s head as they come with the program, shape ``(4, 384)``.

    Raises:
        ValueError: They were computed of other phrases or with another encoder.
    """
    data = resources.files("kernels.signals").joinpath(FILE).read_bytes()
    weights: Floats = safetensors.numpy.load(data)["weights"]
    if data != packed(weights):
        raise ValueError(
            f"{FILE} was computed of other phrases or by another encoder than {made_of()}: run "
            "python -m kernels.signals.prototypes_build <models folder>"
        )
    return weights


def packed(weights: Floats) -> bytes:
    """The file that holds these weights, saying what they are of."""
    tensors = {"weights": np.ascontiguousarray(weights, dtype=np.float32)}
    return safetensors.numpy.save(tensors, {"made_of": made_of()})


def made_of() -> str:
    """The encoder, and a digest of the phrases, their classes and the sharpness."""
    told = repr((SHARPNESS, list(FEEDBACK.items())))
    return f"{ENCODER}; phrases {hashlib.sha256(told.encode()).hexdigest()[:16]}"
