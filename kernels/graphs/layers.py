"""The nodes of an encoder's graph, a few at a time: what all variants share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.graphs.config import EncoderConfig, EncoderError

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as missing:  # pragma: no cover -- a default install
    raise ImportError("graphs need onnx: pip install 'pointsman[models]'") from missing

OPSET = 17
"""Oldest operator set with LayerNormalization; ONNX Runtime 1.15 and MIGraphX read it."""
MASKED = -1e4
"""Added to the score of a key that must not be seen. exp(-1e4) is 0, and float16 can hold it."""

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
HALF = TensorProto.FLOAT16


class Graph:
    """A graph under construction: nodes in order, constants shared by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.domains: dict[str, int] = {"": OPSET}
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A tensor that is part of the model; the same name always means the same tensor."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def whole(self, *values: int) -> str:
        """A vector of int64: axes, shapes, bounds."""
        name = "int_" + "_".join(map(str, values)).replace("-", "m")
        return self.constant(name, np.array(values, dtype=np.int64))

    def real(self, value: float) -> str:
        """A float32 without dimensions."""
        return self.constant(f"real_{value!r}", np.array(value, dtype=np.float32))

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output; its name."""
        return self.add_many(operator, *inputs, outputs=1, domain=domain, **attributes)[0]

    def add_many(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with several outputs; their names."""
        number = len(self.nodes)
        names = [f"{operator}_{number}_{at}" for at in range(outputs)]
        node = helper.make_node(
            operator, inputs, names, name=f"{operator}_{number}", domain=domain, **attributes
        )
        self.nodes.append(node)
        self.domains.setdefault(domain, 1)
        return names

    def name_output(self, inner: str, outer: str) -> None:
        """Give a tensor the name under which it leaves the graph."""
        self.nodes.append(helper.make_node("Identity", [inner], [outer], name=f"out_{outer}"))

    def serialise(
        self,
        inputs: Sequence[str],
        outputs: Sequence[tuple[str, Sequence[str | int]]],
        facts: Mapping[str, str],
    ) -> bytes:
        """The checked model: int64 inputs ``(B, T)``, float32 outputs of the shapes given.

        ``facts`` are what the model says of itself to whoever loads it.
        """
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info(name, INT64, ["B", "T"]) for name in inputs],
            [helper.make_tensor_value_info(name, FLOAT, list(dims)) for name, dims in outputs],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(domain, number) for domain, number in self.domains.items()]
        model = helper.make_model(
            graph, opset_imports=opsets, producer_name="pointsman", ir_version=8
        )
        helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


class Encoder:
    """Adds an encoder's layers to a graph. ``weights`` are those of ``config.check_weights``."""

    def __init__(
        self, graph: Graph, weights: dict[str, NDArray[np.float32]], config: EncoderConfig
    ) -> None:
        self.graph = graph
        self.config = config
        self._weights = weights

    def embed(self, ids: str) -> str:
        """Token ids (B, T) → (B, T, hidden)."""
        graph = self.graph
        table = "embeddings.word_embeddings.weight"
        words = graph.add("Gather", graph.constant(table, self._weights[table]), ids, axis=0)
        table = "embeddings.position_embeddings.weight"
        length = graph.add("Slice", graph.add("Shape", ids), graph.whole(1), graph.whole(2))
        places = graph.add(
            "Slice", graph.constant(table, self._weights[table]), graph.whole(0), length
        )
        return self.norm(graph.add("Add", words, places), "embeddings.LayerNorm")

    def project(self, x: str, layer: int, *, scale: float) -> list[str]:
        """Queries, keys and values, each (B, T, hidden), from one matrix product.

        ``scale`` multiplies the queries: it is folded into their weights.
        """
        graph = self.graph
        matrix, bias = self.projection(layer, scale=scale)
        joint = graph.add("Add", graph.add("MatMul", x, matrix), bias)
        each = graph.whole(*[self.config.hidden] * 3)
        return graph.add_many("Split", joint, each, outputs=3, axis=-1)

    def projection(self, layer: int, *, scale: float) -> tuple[str, str]:
        """The matrix (hidden, 3 × hidden) of :meth:`project`, and its bias."""
        graph, at = self.graph, f"encoder.layer.{layer}.attention.self"
        parts = ((f"{at}.query", scale), (f"{at}.key", 1.0), (f"{at}.value", 1.0))
        matrix = [self._weights[f"{name}.weight"].T * np.float32(by) for name, by in parts]
        bias = [self._weights[f"{name}.bias"] * np.float32(by) for name, by in parts]
        return (
            graph.constant(f"{at}.weight", np.concatenate(matrix, axis=1)),
            graph.constant(f"{at}.bias", np.concatenate(bias)),
        )

    def finish(self, x: str, attended: str, layer: int) -> str:
        """What follows attention in a layer: projection, residual, norm; then the wide part."""
        graph, at = self.graph, f"encoder.layer.{layer}"
        mixed = self.linear(attended, f"{at}.attention.output.dense")
        x = self.norm(graph.add("Add", mixed, x), f"{at}.attention.output.LayerNorm")
        wide = self.gelu(self.linear(x, f"{at}.intermediate.dense"))
        narrow = self.linear(wide, f"{at}.output.dense")
        return self.norm(graph.add("Add", narrow, x), f"{at}.output.LayerNorm")

    def linear(self, x: str, name: str) -> str:
        graph = self.graph
        matrix = graph.constant(f"{name}.weight", self._weights[f"{name}.weight"].T)
        product = graph.add("MatMul", x, matrix)
        return graph.add(
            "Add", product, graph.constant(f"{name}.bias", self._weights[f"{name}.bias"])
        )

    def norm(self, x: str, name: str) -> str:
        return self.graph.add(
            "LayerNormalization",
            x,
            self.graph.constant(f"{name}.weight", self._weights[f"{name}.weight"]),
            self.graph.constant(f"{name}.bias", self._weights[f"{name}.bias"]),
            axis=-1,
            epsilon=self.config.eps,
        )

    def gelu(self, x: str) -> str:
        """Exact GELU from basic operators, a pattern that ONNX Runtime fuses into one."""
        graph = self.graph
        bent = graph.add("Erf", graph.add("Div", x, graph.real(float(np.sqrt(2.0)))))
        shifted = graph.add("Add", bent, graph.real(1.0))
        return graph.add("Mul", graph.add("Mul", x, shifted), graph.real(0.5))

    def split_heads(self, x: str) -> str:
        """(B, T, hidden) → (B, heads, T, head size)."""
        graph, config = self.graph, self.config
        parted = graph.add("Reshape", x, graph.whole(0, 0, config.heads, config.head_size))
        return graph.add("Transpose", parted, perm=[0, 2, 1, 3])

    def join_heads(self, x: str) -> str:
        """(B, heads, T, head size) → (B, T, hidden)."""
        back = self.graph.add("Transpose", x, perm=[0, 2, 1, 3])
        return self.graph.add("Reshape", back, self.graph.whole(0, 0, self.config.hidden))

    def penalty(self, mask: str) -> str:
        """Attention mask (B, T) → (B, 1, 1, T): 0 for a token, :data:`MASKED` for padding."""
        graph = self.graph
        seen = graph.add("Cast", mask, to=FLOAT)
        hidden = graph.add("Sub", graph.real(1.0), seen)
        return graph.add(
            "Unsqueeze", graph.add("Mul", hidden, graph.real(MASKED)), graph.whole(1, 2)
        )

    def pool(self, x: str, mask: str | None) -> str:
        """Mean of the tokens that the mask shows, (B, hidden), of Euclidean length 1."""
        graph = self.graph
        if mask is None:
            mean = graph.add("ReduceMean", x, axes=[1], keepdims=0)
        else:
            seen = graph.add("Unsqueeze", graph.add("Cast", mask, to=FLOAT), graph.whole(2))
            total = graph.add("ReduceSum", graph.add("Mul", x, seen), graph.whole(1), keepdims=0)
            count = graph.add("ReduceSum", seen, graph.whole(1), keepdims=0)
            mean = graph.add("Div", total, graph.add("Max", count, graph.real(1.0)))
        length = graph.add("ReduceL2", mean, axes=[-1], keepdims=1)
        return graph.add("Div", mean, graph.add("Max", length, graph.real(1e-12)))


def check_window(window: int) -> int:
    """A window's reach in tokens to either side.

    Raises:
        EncoderError: it is not in 1 to 4096.
    """
    if not 1 <= window <= 4096:
        raise EncoderError(f"window is {window}: give 1 to 4096 tokens to either side")
    return window
