import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer

from bench.kernels_attention import SENTENCES
from kernels.graphs.builder import Variant, build
from kernels.graphs.calibrate import factors, peaks
from kernels.graphs.oracle import encode
from kernels.graphs.quantize import build_int8, per_channel, quantise
from kernels.providers import choose
from tests.kernels.encoders import TINY, minilm, padded, spread, texts

AGREES = 0.985
"""Least cosine of an int8 embedding to its float32 one, on real sentences."""
MORE = (
    "hi",
    "Ok",
    "thanks",
    "Summarise the report in three points, one for each region, and say what you are unsure of.",
    "如何在家做面包",
    "for (int i = 0; i < n; ++i) { total += values[i]; }",
    "Book a table for four people at seven, somewhere quiet near the station.",
    "Give me a recipe for lentil soup without onions, with the amounts in grams.",
    "Which of these two answers is better, and why? A: Paris. B: The capital of France is Paris.",
)
"""Beside those of the benchmark: the shortest, and other scripts."""


def embed(model: bytes, rows: list[list[int]]) -> NDArray[np.float32]:
    """Each text alone, as a server runs it."""
    session = choose(model, wanted=["cpu"]).session
    names = {one.name for one in session.get_inputs()}
    feeds = ({n: one for n, one in padded([row]).items() if n in names} for row in rows)
    return np.stack([session.run(["embedding"], feed)[0][0] for feed in feeds])


def sentences() -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(minilm().folder / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.no_padding()
    return [one.ids for one in tokenizer.encode_batch([*SENTENCES, *MORE])]


def test_int8_minilm_agrees_with_float32_on_real_sentences():
    model = minilm()
    rows = sentences()
    wanted = embed(build(model.weights, model.config), rows)

    for variant in ("plain", "flash", "fused"):
        found = embed(build_int8(model.weights, model.config, variant), rows)
        cosines = (found * wanted).sum(axis=1)
        assert cosines.min() >= AGREES


def test_levelled_columns_bring_int8_closer():
    model = minilm()
    rows = sentences()
    plain = build(model.weights, model.config)
    wanted = embed(plain, rows)
    apart = embed(per_channel(plain), rows)
    level = embed(per_channel(plain, columns=peaks(model.weights, model.config)), rows)
    assert np.mean((level * wanted).sum(axis=1)) > np.mean((apart * wanted).sum(axis=1))


def test_int8_is_a_quarter_of_the_size():
    model = minilm()
    assert len(build_int8(model.weights, model.config)) < 24_000_000


@pytest.mark.parametrize("variant", ["plain", "flash", "fused", "blocklocal"])
def test_int8_of_a_random_encoder_stays_near_the_oracle(variant: Variant):
    weights = spread(TINY, seed=1)
    rows = texts(TINY, [40, 40, 40], seed=2)
    found = embed(build_int8(weights, TINY, variant), rows)
    wanted, _ = encode(weights, TINY, np.array(rows))
    assert (found * wanted).sum(axis=1).min() > 0.99


def test_every_product_with_a_constant_matrix_becomes_int8():
    built = onnx.load_model_from_string(build_int8(spread(TINY, seed=1), TINY))
    kinds = [node.op_type for node in built.graph.node]
    assert kinds.count("MatMulInteger") == 4 * TINY.layers
    assert kinds.count("MatMul") == 2 * TINY.layers  # scores and values: no constant in them
    large = [one for one in built.graph.initializer if len(one.dims) == 2]
    stored = {one.name: one.data_type for one in large if 1 not in one.dims}
    position_table = "embeddings.position_embeddings.weight"
    assert {name for name, kind in stored.items() if kind != onnx.TensorProto.INT8} == {
        position_table
    }


def test_fused_attention_becomes_int8_in_one_node():
    built = onnx.load_model_from_string(build_int8(spread(TINY, seed=1), TINY, "fused"))
    kinds = [node.op_type for node in built.graph.node]
    assert kinds.count("QAttention") == TINY.layers
    assert kinds.count("MatMulInteger") == 3 * TINY.layers
    assert "Attention" not in kinds


def test_each_output_column_has_a_scale_of_its_own():
    built = onnx.load_model_from_string(per_channel(build(spread(TINY, seed=1), TINY)))
    tensors = {one.name: numpy_helper.to_array(one) for one in built.graph.initializer}
    name = "encoder.layer.0.output.dense.weight"
    whole, scale = tensors[f"{name}.int8"], tensors[f"{name}.scale"]
    assert whole.shape == (TINY.intermediate, TINY.hidden)
    assert scale.shape == (TINY.hidden,)
    assert len(np.unique(scale)) == TINY.hidden
    assert (np.abs(whole).max(axis=0) == 127).all()


def test_the_reduced_range_cannot_overflow_sixteen_bits():
    model = per_channel(build(spread(TINY, seed=1), TINY), reduce_range=True, embeddings=False)
    built = onnx.load_model_from_string(model)
    matrices = [
        numpy_helper.to_array(one) for one in built.graph.initializer if one.name.endswith(".int8")
    ]
    assert len(matrices) == 4 * TINY.layers
    # Two products of a uint8 and a weight are added in one register of 16 bits with a sign.
    assert all(2 * 255 * int(np.abs(one).max()) < 2**15 for one in matrices)


def test_rounding_is_off_by_half_a_step_at_most():
    matrix = np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32)
    matrix[:, 3] = 0
    whole, scale = quantise(matrix, 127, axis=0)
    assert scale.shape == (1, 20)
    assert (np.abs(whole * scale - matrix) <= scale * 0.5001).all()
    assert (whole[:, 3] == 0).all()


def test_levelling_leaves_the_product_as_it_was():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 30)) * np.geomspace(0.01, 100, 30)
    matrix = rng.normal(size=(30, 20)).astype(np.float32)
    by = factors(np.abs(x).max(axis=0).astype(np.float32), matrix)
    assert np.allclose((x / by) @ (matrix * by[:, None]), x @ matrix)
    levelled = np.abs(x / by).max(axis=0)
    assert levelled.max() / levelled.min() < np.ptp(np.abs(x).max(axis=0)) / 10


def test_peaks_name_each_levelled_matrix_of_the_graph():
    weights = spread(TINY, seed=1)
    built = onnx.load_model_from_string(build(weights, TINY))
    rows = {one.name: one.dims[0] for one in built.graph.initializer if len(one.dims) == 2}
    found = peaks(weights, TINY)
    assert len(found) == 3 * TINY.layers
    assert all(value.shape == (rows[name],) for name, value in found.items())


def test_peaks_may_come_from_real_texts():
    weights = spread(TINY, seed=1)
    ids = np.array(texts(TINY, [20, 20], seed=3))
    own = peaks(weights, TINY, ids=ids)
    assert any(not np.array_equal(own[name], one) for name, one in peaks(weights, TINY).items())


def test_int8_keeps_what_the_model_says_of_itself():
    built = onnx.load_model_from_string(build_int8(spread(TINY, seed=1), TINY))
    facts = {one.key: one.value for one in built.metadata_props}
    assert facts == {"variant": "plain", "positions": "96"}
