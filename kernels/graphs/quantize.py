"""float32 → int8: each column of a matrix has a scale of its own.

One scale for a whole matrix loses too much of MiniLM; one for each output column keeps it.
Activations are rounded while the model runs (uint8, one scale for each product), with their
columns made alike first (``calibrate``). The operators are ONNX's own, in the pattern that ONNX
Runtime fuses into one product with its bias.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kernels.graphs.builder import Variant, build
from kernels.graphs.calibrate import factors, peaks
from kernels.graphs.config import EncoderConfig, Weights
from kernels.graphs.layers import FLOAT

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as missing:  # pragma: no cover -- a default install
    raise ImportError("int8 needs onnx: pip install 'pointsman[models]'") from missing

FULL_RANGE = 127
REDUCED_RANGE = 63

Tensors = dict[str, onnx.TensorProto]


def build_int8(
    weights: Weights,
    config: EncoderConfig,
    variant: Variant = "plain",
    *,
    tokens: bool = False,
    reduce_range: bool = False,
) -> bytes:
    """An int8 encoder from weights alone, with the columns' peaks known: the closest to float32.

    Raises:
        EncoderError: weights and configuration differ.
    """
    model = build(weights, config, variant, tokens=tokens)
    return per_channel(model, columns=peaks(weights, config), reduce_range=reduce_range)


def per_channel(
    model: bytes,
    *,
    columns: Mapping[str, NDArray[np.float32]] | None = None,
    reduce_range: bool = False,
    embeddings: bool = True,
) -> bytes:
    """The model with int8 matrices, for every product with a constant matrix.

    Args:
        model: a serialised ONNX model, such as ``builder.build`` makes.
        columns: the peaks that ``calibrate.peaks`` finds. Left out, int8 is a little faster and
            further from float32.
        reduce_range: weights in ±63 instead of ±127. Processors with AVX2 or AVX-512 but without
            VNNI add two products in 16 bits, which overflow at the full range.
        embeddings: whether the tables that ``Gather`` reads become int8 too, with a scale for each
            row.
    """
    proto = onnx.load_model_from_string(model)
    tensors = {one.name: one for one in proto.graph.initializer}
    rounding = _Rounding(REDUCED_RANGE if reduce_range else FULL_RANGE, columns or {})
    for node in proto.graph.node:
        constant = _matrix(node, tensors)
        if node.op_type == "MatMul" and constant is not None:
            rounding.product(node, constant)
        elif node.op_type == "Attention" and constant is not None:
            rounding.attention(node, constant)
        elif node.op_type == "Gather" and constant is not None and embeddings:
            rounding.lookup(node, constant)
        else:
            rounding.nodes.append(node)
    _replace(proto, rounding.nodes, tensors, rounding.tensors)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def quantise(
    matrix: NDArray[np.float32], most: int, *, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounding to ±``most`` without an offset: whole numbers, and the scales along ``axis``."""
    peak = np.abs(matrix).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / most, 1.0).astype(np.float32)
    return np.rint(matrix / scale).astype(np.int8), scale


def _matrix(node: onnx.NodeProto, tensors: Tensors) -> NDArray[np.float32] | None:
    """The constant float matrix of a product, an attention or a lookup, if it has one."""
    place = {"MatMul": 1, "Attention": 1, "Gather": 0}.get(node.op_type)
    found = None if place is None else tensors.get(node.input[place])
    if found is None or len(found.dims) != 2 or found.data_type != FLOAT:
        return None
    return np.asarray(numpy_helper.to_array(found), dtype=np.float32)


class _Rounding:
    """Gathers the nodes and constants of the int8 model."""

    def __init__(self, most: int, columns: Mapping[str, NDArray[np.float32]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: Tensors = {}
        self._most = most
        self._columns = columns
        self._rounded: dict[str, tuple[str, str, str]] = {}

    def product(self, node: onnx.NodeProto, matrix: NDArray[np.float32]) -> None:
        x, name = node.input
        rounded, x_scale, x_zero = self._operands(x, name, matrix)
        at = node.name
        self._add("MatMulInteger", [rounded, f"{name}.int8", x_zero, f"{name}.zero"], f"{at}.int32")
        self._add("Cast", [f"{at}.int32"], f"{at}.real", to=FLOAT)
        self._add("Mul", [x_scale, f"{name}.scale"], f"{at}.scale")
        self._add("Mul", [f"{at}.real", f"{at}.scale"], node.output[0])

    def attention(self, node: onnx.NodeProto, matrix: NDArray[np.float32]) -> None:
        """Projection in int8, scores and values in float32."""
        x, name, bias = node.input
        rounded, x_scale, x_zero = self._operands(x, name, matrix)
        scales = [bias, x_scale, f"{name}.scale", "", x_zero, f"{name}.zero"]
        made = helper.make_node(
            "QAttention",
            [rounded, f"{name}.int8", *scales],
            node.output,
            name=node.name,
            domain=node.domain,
        )
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def _operands(self, x: str, name: str, matrix: NDArray[np.float32]) -> tuple[str, str, str]:
        """Keep a matrix in int8; its input in uint8, with its scale and its zero."""
        if name in self._columns:
            x, matrix = self._level(x, name, matrix)
        whole, scale = quantise(matrix, self._most, axis=0)
        self._keep(f"{name}.int8", whole)
        self._keep(f"{name}.scale", scale[0])
        self._keep(f"{name}.zero", np.zeros(matrix.shape[1], dtype=np.int8))
        return self._round(x)

    def lookup(self, node: onnx.NodeProto, table: NDArray[np.float32]) -> None:
        name, ids = node.input
        whole, scale = quantise(table, FULL_RANGE, axis=1)
        self._keep(f"{name}.int8", whole)
        self._keep(f"{name}.scale", scale)
        at = node.name
        self._add("Gather", [f"{name}.int8", ids], f"{at}.int8")
        self._add("Gather", [f"{name}.scale", ids], f"{at}.scale")
        self._add("Cast", [f"{at}.int8"], f"{at}.real", to=FLOAT)
        self._add("Mul", [f"{at}.real", f"{at}.scale"], node.output[0])

    def _level(
        self, x: str, name: str, matrix: NDArray[np.float32]
    ) -> tuple[str, NDArray[np.float32]]:
        """Columns of the input made alike, and the matrix whose product is the same."""
        by = factors(self._columns[name], matrix)
        self._keep(f"{name}.level", 1 / by)
        self._add("Mul", [x, f"{name}.level"], f"{x}.level")
        return f"{x}.level", matrix * by[:, None]

    def _round(self, x: str) -> tuple[str, str, str]:
        """The uint8 form of an input, made once however many products read it."""
        if x not in self._rounded:
            parts = (f"{x}.uint8", f"{x}.scale", f"{x}.zero")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts, f"{x}.round"))
            self._rounded[x] = parts
        return self._rounded[x]

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: int) -> None:
        made = helper.make_node(operator, inputs, [output], name=output)
        made.attribute.extend(helper.make_attribute(*one) for one in attributes.items())
        self.nodes.append(made)

    def _keep(self, name: str, value: NDArray[np.generic]) -> None:
        self.tensors[name] = numpy_helper.from_array(value, name)


def _replace(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: Tensors, made: Tensors
) -> None:
    """Put the nodes into the model, with the constants that they still read."""
    read = {name for node in nodes for name in node.input}
    constants = [*(one for name, one in tensors.items() if name in read), *made.values()]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)
