import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from kernels.graphs.builder import VARIANTS, Variant, build
from kernels.graphs.config import (
    EncoderConfig,
    EncoderError,
    check_weights,
    random_weights,
    read_config,
    weight_shapes,
)
from kernels.graphs.oracle import encode
from kernels.providers import choose
from tests.kernels.encoders import CONFIGS, TINY, as_json, minilm, padded, spread, texts

CLOSE = 1e-4
"""Largest difference to the oracle, which counts in float64, that float32 is allowed."""


def run(model: bytes, feed: dict[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    session = choose(model, wanted=["cpu"]).session
    names = {one.name for one in session.get_inputs()}
    return list(session.run(None, {name: one for name, one in feed.items() if name in names}))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_plain_graph_equals_the_oracle_under_padding(config: EncoderConfig):
    weights = spread(config, seed=1)
    feed = padded(texts(config, [1, 7, 33, 40], seed=2))

    embedding, tokens = run(build(weights, config, tokens=True), feed)

    wanted, states = encode(weights, config, feed["input_ids"], feed["attention_mask"])
    shown = feed["attention_mask"].astype(bool)
    assert np.abs(embedding - wanted).max() < CLOSE
    assert np.abs(tokens - states)[shown].max() < CLOSE
    # The claim is worth something only if texts differ and attention does something.
    assert max(left @ right for left, right in pairwise(wanted)) < 0.95


@pytest.mark.parametrize("variant", ["flash", "fused"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_graph_without_a_mask_equals_the_oracle_on_texts_of_one_length(
    config: EncoderConfig, variant: Variant
):
    weights = spread(config, seed=3)
    feed = padded(texts(config, [29, 29, 29], seed=4))

    embedding, tokens = run(build(weights, config, variant, tokens=True), feed)

    wanted, states = encode(weights, config, feed["input_ids"])
    assert np.abs(embedding - wanted).max() < CLOSE
    assert np.abs(tokens - states).max() < CLOSE


@pytest.mark.parametrize("lengths", [[1], [5, 3], [8], [9], [16, 2], [37, 24, 1], [70]])
@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2]])
def test_block_local_attention_equals_a_dense_band_mask(
    config: EncoderConfig, window: int, lengths: list[int]
):
    weights = spread(config, seed=5)
    feed = padded(texts(config, lengths, seed=6))

    embedding, tokens = run(build(weights, config, "blocklocal", window=window, tokens=True), feed)

    ids, mask = feed["input_ids"], feed["attention_mask"]
    wanted, states = encode(weights, config, ids, mask, window=window)
    assert np.abs(embedding - wanted).max() < CLOSE
    assert np.abs(tokens - states)[mask.astype(bool)].max() < CLOSE


def test_a_window_as_long_as_the_text_sees_all_of_it():
    weights = spread(TINY, seed=7)
    feed = padded(texts(TINY, [64, 20], seed=8))

    narrow = run(build(weights, TINY, "blocklocal", window=2), feed)[0]
    wide = run(build(weights, TINY, "blocklocal", window=64), feed)[0]

    dense = run(build(weights, TINY), feed)[0]
    assert np.abs(wide - dense).max() < CLOSE
    assert np.abs(narrow - dense).max() > 100 * CLOSE


def test_padding_changes_nothing():
    weights = spread(TINY, seed=9)
    rows = texts(TINY, [11, 50], seed=10)
    for variant in ("plain", "blocklocal"):
        model = build(weights, TINY, variant)
        together = run(model, padded(rows))[0]
        alone = [run(model, padded([row]))[0][0] for row in rows]
        assert np.abs(together - np.stack(alone)).max() < CLOSE


def test_a_text_of_padding_alone_gives_finite_numbers():
    feed = padded(texts(TINY, [12, 12], seed=11))
    feed["attention_mask"][1] = 0
    for variant in ("plain", "blocklocal"):
        found = run(build(spread(TINY, seed=12), TINY, variant), feed)[0]
        assert np.isfinite(found).all()
        assert (found[1] == 0).all()


@pytest.mark.parametrize("variant", ["plain", "flash", "fused", "blocklocal"])
def test_all_variants_of_minilm_agree_with_the_oracle(variant: Variant):
    model = minilm()
    # A window of 64 hides nothing from a text of 60 tokens.
    feed = padded(texts(model.config, [60, 60], seed=13))

    found = run(build(model.weights, model.config, variant), feed)[0]

    wanted, _ = encode(model.weights, model.config, feed["input_ids"])
    assert np.abs(found - wanted).max() < CLOSE


def test_minilm_with_a_window_equals_its_band_mask():
    model = minilm()
    feed = padded(texts(model.config, [300], seed=14))

    found = run(build(model.weights, model.config, "blocklocal"), feed)[0]

    wanted, _ = encode(model.weights, model.config, feed["input_ids"], window=64)
    assert np.abs(found - wanted).max() < CLOSE


def test_the_ck_graph_keeps_the_contract_of_its_operator():
    model = minilm()
    built = onnx.load_model_from_string(build(model.weights, model.config, "ck", window=64))

    nodes = [node for node in built.graph.node if node.op_type == "CKFlashAttention"]
    made_by = {name: node for node in built.graph.node for name in node.output}
    assert len(nodes) == model.config.layers
    for node in nodes:
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        assert node.domain == "com.ck"
        assert given == {
            "scale": pytest.approx(32**-0.5),
            "window_size_left": 64,
            "window_size_right": 64,
        }
        query, key, value, bias = node.input
        for name in (query, key, value):
            cast = made_by[name]
            assert cast.op_type == "Cast"
            assert cast.attribute[0].i == onnx.TensorProto.FLOAT16
            assert made_by[cast.input[0]].op_type == "Transpose"
        assert made_by[bias].op_type == "Unsqueeze"
    assert {one.domain for one in built.opset_import} == {"", "com.ck"}
    assert [one.name for one in built.graph.input] == ["input_ids", "attention_mask"]


def test_the_ck_graph_of_all_keys_has_no_window():
    config = EncoderConfig(layers=1, heads=1, hidden=32, intermediate=8, vocab=9, positions=8)
    built = onnx.load_model_from_string(build(random_weights(config, seed=1), config, "ck"))
    node = next(one for one in built.graph.node if one.domain == "com.ck")
    given = {one.name: one.i for one in node.attribute if one.name.startswith("window")}
    assert given == {"window_size_left": -1, "window_size_right": -1}


def test_the_ck_operator_refuses_other_head_sizes():
    with pytest.raises(EncoderError, match="head size is 8: CKFlashAttention takes 32, 64, 128"):
        build(spread(TINY, seed=1), TINY, "ck")


def test_a_ck_graph_cannot_run_without_its_library():
    config = EncoderConfig(layers=1, heads=1, hidden=32, intermediate=8, vocab=9, positions=8)
    model = build(random_weights(config, seed=1), config, "ck")
    with pytest.raises(RuntimeError, match=r"com\.ck"):
        choose(model, wanted=["cpu"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_weights_give_the_same_bytes(variant: Variant):
    model = minilm()
    config = EncoderConfig(
        layers=1, heads=12, hidden=384, intermediate=1536, vocab=30522, positions=512
    )
    assert build(model.weights, config, variant) == build(model.weights, config, variant)


def test_the_config_is_read_from_its_file():
    path = minilm().folder / "config.json"
    config = read_config(json.loads(path.read_text()))
    assert config == EncoderConfig(
        layers=6, heads=12, hidden=384, intermediate=1536, vocab=30522, positions=512, eps=1e-12
    )
    assert read_config(as_json(TINY)) == TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta': only 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"vocab_size": None}, "no whole number for vocab_size"),
        ({"num_hidden_layers": 1000}, "layers is 1000: give 1 to 48"),
        ({"num_attention_heads": 5}, "hidden 32 is no multiple of heads 5"),
        ({"layer_norm_eps": 0.0}, "eps is 0.0"),
    ],
)
def test_another_kind_of_encoder_is_refused(change: dict[str, object], message: str):
    with pytest.raises(EncoderError, match=message):
        read_config({**as_json(TINY), **change})


def test_weights_that_do_not_fit_are_refused_by_name():
    weights = spread(TINY, seed=1)
    name = "encoder.layer.1.output.dense.weight"
    with pytest.raises(EncoderError, match=f"the weights have no {name}"):
        check_weights({key: one for key, one in weights.items() if key != name}, TINY)
    with pytest.raises(EncoderError, match=r"has shape \(32, 1\), the config says \(32, 48\)"):
        check_weights({**weights, name: np.zeros((32, 1), np.float32)}, TINY)


def test_weights_may_carry_the_prefix_of_a_task_model():
    weights = spread(TINY, seed=1)
    named = {f"bert.{name}": value for name, value in weights.items()}
    assert build(named, TINY) == build(weights, TINY)
    assert set(check_weights(named, TINY)) == set(weight_shapes(TINY))


def test_token_types_are_added_once():
    weights = spread(TINY, seed=1)
    types = np.random.default_rng(2).normal(size=(2, TINY.hidden)).astype(np.float32)
    feed = padded(texts(TINY, [9], seed=3))
    found = run(build({**weights, "embeddings.token_type_embeddings.weight": types}, TINY), feed)[0]
    table = "embeddings.position_embeddings.weight"
    wanted = run(build({**weights, table: weights[table] + types[0]}, TINY), feed)[0]
    assert np.abs(found - wanted).max() < 1e-6
    assert np.abs(found - run(build(weights, TINY), feed)[0]).max() > CLOSE


@pytest.mark.parametrize("window", [0, 5000])
def test_a_window_out_of_range_is_refused(window: int):
    with pytest.raises(EncoderError, match=f"window is {window}: give 1 to 4096"):
        build(spread(TINY, seed=1), TINY, "blocklocal", window=window)


def test_an_unknown_variant_is_refused():
    with pytest.raises(EncoderError, match="variant is 'sparse': give one of plain, flash"):
        build(spread(TINY, seed=1), TINY, "sparse")  # type: ignore[arg-type]


def test_more_positions_let_a_longer_text_run():
    config = replace(TINY, positions=200)
    weights = spread(config, seed=1)
    feed = padded(texts(config, [200], seed=2))
    for variant in ("plain", "flash", "fused", "blocklocal"):
        found = run(build(weights, config, variant, window=256), feed)[0]
        wanted, _ = encode(weights, config, feed["input_ids"])
        assert np.abs(found - wanted).max() < CLOSE
