"""ONNX Runtime as it is on a machine with an AMD card."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from kernels.providers import PROVIDERS

MIGRAPHX = PROVIDERS["migraphx"]


class Card:
    """A card that notes what it is told and which shapes it meets; the processor computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: list[dict[str, str]] = []
        self.shapes: list[tuple[int, ...]] = []
        real = onnxruntime.InferenceSession
        card = self

        class Session:
            def __init__(self, model: Any, options: Any, *, providers: Any, **_: Any) -> None:
                ((self._name, told),) = providers
                if self._name == MIGRAPHX:
                    card.options.append(told)
                self._session = real(model, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return [self._name]

            def run(self, names: Any, feed: dict[str, np.ndarray]) -> Any:
                card.shapes.append(feed["input_ids"].shape)
                return self._session.run(names, feed)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._session, name)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        listed = [MIGRAPHX, "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
