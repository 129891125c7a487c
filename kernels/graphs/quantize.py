"""float32 → int8: each column of a matrix has a scale of its own.

One scale for a whole matrix loses too much of MiniLM; one for each output column keeps it.
Activations are quantised while the model runs (uint8, one scale for each product). The operators
are ONNX's own, in the pattern that ONNX Runtime fuses into one product with its bias.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as missing:  # pragma: no cover -- a default install
    raise ImportError("quantisation needs onnx: pip install 'pointsman[models]'") from missing

FULL_RANGE = 127
REDUCED_RANGE = 63


def per_channel(model: bytes, *, reduce_range: bool = False, embeddings: bool = True) -> bytes:
    """The model with int8 matrices, for every product with a constant matrix.

    Args:
        model: a serialised ONNX model, such as ``builder.build`` makes.
        reduce_range: weights in ±63 instead of ±127. Processors with AVX2 or AVX-512 but without
            VNNI add two products in 16 bits, which overflow at the full range.
        embeddings: whether the largest table that ``Gather`` reads becomes int8 too, with a scale
            for each of its rows.
    """
    proto = onnx.load_model_from_string(model)
    tensors = {one.name: one for one in proto.graph.initializer}
    most = REDUCED_RANGE if reduce_range else FULL_RANGE
    kept: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    activations: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            matrix = numpy_helper.to_array(tensors[node.input[1]])
            kept += _product(node, matrix, most, made, activations)
        elif embeddings and node.op_type == "Gather" and _is_table(tensors.get(node.input[0])):
            kept += _lookup(node, numpy_helper.to_array(tensors[node.input[0]]), made)
        else:
            kept.append(node)
    _replace(proto, kept, tensors, made)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def quantise(matrix: NDArray[np.float32], most: int, *, axis: int) -> tuple[NDArray[np.int8], Any]:
    """Symmetric rounding to ±``most``: whole numbers, and the scale of each slice along ``axis``."""
    peak = np.abs(matrix).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / most, 1.0).astype(np.float32)
    return np.rint(matrix / scale).astype(np.int8), scale


def _is_table(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2


def _product(
    node: onnx.NodeProto,
    matrix: NDArray[np.float32],
    most: int,
    made: dict[str, onnx.TensorProto],
    activations: dict[str, list[str]],
) -> list[onnx.NodeProto]:
    """Nodes that stand for one product with a constant matrix."""
    x, name = node.input
    whole, scale = quantise(matrix, most, axis=0)
    for suffix, value in (
        ("int8", whole),
        ("scale", scale[0]),
        ("zero", np.zeros(matrix.shape[1], dtype=np.int8)),
    ):
        made[f"{name}.{suffix}"] = numpy_helper.from_array(value, f"{name}.{suffix}")
    nodes: list[onnx.NodeProto] = []
    if x not in activations:
        activations[x] = [f"{x}.{part}" for part in ("uint8", "scale", "zero")]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [x], activations[x], f"{x}.quant"))
    rounded, x_scale, x_zero = activations[x]
    at = node.name
    product = [rounded, f"{name}.int8", x_zero, f"{name}.zero"]
    return [
        *nodes,
        helper.make_node("MatMulInteger", product, [f"{at}.int32"], f"{at}.product"),
        helper.make_node("Cast", [f"{at}.int32"], [f"{at}.real"], f"{at}.cast", to=1),
        helper.make_node("Mul", [x_scale, f"{name}.scale"], [f"{at}.scale"], f"{at}.scales"),
        helper.make_node("Mul", [f"{at}.real", f"{at}.scale"], node.output, at),
    ]


def _lookup(
    node: onnx.NodeProto, table: NDArray[np.float32], made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Nodes that read rows of an int8 table and multiply them by their scales."""
    name, ids = node.input
    whole, scale = quantise(table, FULL_RANGE, axis=1)
    made[f"{name}.int8"] = numpy_helper.from_array(whole, f"{name}.int8")
    made[f"{name}.scale"] = numpy_helper.from_array(scale, f"{name}.scale")
    at = node.name
    return [
        helper.make_node("Gather", [f"{name}.int8", ids], [f"{at}.int8"], f"{at}.rows", axis=0),
        helper.make_node("Gather", [f"{name}.scale", ids], [f"{at}.scale"], f"{at}.scales", axis=0),
        helper.make_node("Cast", [f"{at}.int8"], [f"{at}.real"], f"{at}.cast", to=1),
        helper.make_node("Mul", [f"{at}.real", f"{at}.scale"], node.output, at),
    ]


def _replace(
    proto: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    tensors: dict[str, onnx.TensorProto],
    made: dict[str, onnx.TensorProto],
) -> None:
    """Put the nodes into the model, with the constants that they still read."""
    read = {name for node in nodes for name in node.input}
    constants = [*(one for name, one in tensors.items() if name in read), *made.values()]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)
