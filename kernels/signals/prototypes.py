"""A head without labels: each class is the mean of a few phrases that say what it means.

It is where a head starts from that no feedback has taught yet (nearest class mean, as in prototype
networks: Snell et al. 2017, arXiv:1703.05175). The phrases are our own. A trained head of the same
name replaces it as soon as there is one.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.signals.heads import Head

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]
"""Texts → vectors ``(n, d)`` of length 1."""

SHARPNESS = 12.0
"""What cosines are multiplied by: they lie close together, chances should not."""

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
    feature: str = "embedding",
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
