from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kernels.graphs.builder import build
from kernels.providers import (
    DEFAULT_ORDER,
    PROVIDERS,
    Fallback,
    Placement,
    ProviderError,
    choose,
    provider_options,
    session_options,
)
from tests.kernels.encoders import TINY, padded, spread, texts

CARDS = ("migraphx", "rocm", "cuda")
here = set(onnxruntime.get_available_providers())
no_card = pytest.mark.skipif(
    any(PROVIDERS[name] in here for name in CARDS), reason="this ONNX Runtime knows a card"
)


@pytest.fixture(scope="module")
def model() -> bytes:
    return build(spread(TINY, seed=1), TINY)


def logarithm() -> bytes:
    """A model whose output is not a number for negative inputs."""
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "log",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(made.SerializeToString())


@no_card
def test_without_a_card_the_cpu_serves_and_each_fallback_is_named(model: bytes):
    told: list[Fallback] = []
    proven = choose(model, on_fallback=told.append)
    assert proven.provider == "cpu"
    assert proven.session.get_providers()[0] == "CPUExecutionProvider"
    assert [one.provider for one in proven.fallbacks] == list(CARDS)
    assert tuple(told) == proven.fallbacks
    assert "install onnxruntime-migraphx" in proven.fallbacks[0].reason


@no_card
@pytest.mark.parametrize("provider", CARDS)
def test_a_required_provider_that_is_missing_is_refused(model: bytes, provider: str):
    with pytest.raises(ProviderError, match=f"{provider} is required") as refused:
        choose(model, require=provider)
    assert [one.provider for one in refused.value.fallbacks] == [provider]


@no_card
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", ["migraphx", "cuda"])
def test_a_provider_that_is_listed_but_falls_back_in_silence_does_not_count(
    model: bytes, provider: str, monkeypatch: pytest.MonkeyPatch
):
    """ONNX Runtime takes the name of a provider that it lacks, and serves on the CPU."""
    listed = ["CPUExecutionProvider", PROVIDERS[provider]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    proven = choose(model, wanted=[provider, "cpu"])
    assert proven.provider == "cpu"
    reason = f"a session made for {PROVIDERS[provider]} runs on CPUExecutionProvider"
    assert proven.fallbacks == (Fallback(provider, reason),)
    with pytest.raises(ProviderError, match=f"{provider} is required"):
        choose(model, require=provider)


def test_the_required_provider_serves_when_it_is_there(model: bytes):
    proven = choose(model, require="cpu")
    assert (proven.provider, proven.fallbacks) == ("cpu", ())


def test_a_provider_whose_probe_is_not_finite_does_not_count():
    probe = {"x": np.array([-1.0], dtype=np.float32)}
    with pytest.raises(ProviderError, match="output 0 of the probe is not finite"):
        choose(logarithm(), wanted=["cpu"], probe=probe)
    fine = {"x": np.array([1.0], dtype=np.float32)}
    assert choose(logarithm(), wanted=["cpu"], probe=fine).provider == "cpu"


def test_a_probe_that_fails_to_run_does_not_count(model: bytes):
    with pytest.raises(ProviderError, match="input"):
        choose(model, wanted=["cpu"], probe={"input_ids": np.zeros((1, 4), np.int64)})


def test_a_model_that_is_none_is_refused_with_the_reason():
    with pytest.raises(ProviderError, match=r"no provider runs the model .*cpu: .*protobuf"):
        choose(b"not a model", wanted=["cpu"])


def test_a_model_may_be_a_file(model: bytes, tmp_path: Path):
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model)
    feed = padded(texts(TINY, [9], seed=2))
    from_file = choose(path, wanted=["cpu"], probe=feed).session.run(None, feed)[0]
    from_bytes = choose(model, wanted=["cpu"]).session.run(None, feed)[0]
    assert np.array_equal(from_file, from_bytes)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ProviderError, match=r"nothing\.onnx"):
        choose(tmp_path / "nothing.onnx", wanted=["cpu"])


@pytest.mark.parametrize(("wanted", "require"), [(["tpu"], None), ([], None), (["cpu"], "gpu")])
def test_unknown_names_are_refused(model: bytes, wanted: list[str], require: str | None):
    with pytest.raises(ProviderError, match="give one of migraphx, rocm, cuda, cpu"):
        choose(model, wanted=wanted, require=require)


def test_amd_comes_before_nvidia_and_the_cpu_last():
    assert DEFAULT_ORDER == ("migraphx", "rocm", "cuda", "cpu")


def test_a_session_keeps_to_its_threads_and_does_not_spin():
    options = session_options(Placement(threads=3))
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_options_name_the_card_and_the_compile_cache(tmp_path: Path):
    placement = Placement(device=2, cache_dir=tmp_path, half=True)
    assert provider_options("migraphx", placement) == {
        "device_id": "2",
        "migraphx_model_cache_dir": str(tmp_path),
        "migraphx_fp16_enable": "1",
    }
    assert provider_options("cuda", placement) == {"device_id": "2"}
    assert provider_options("cpu", placement) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threads": 0}, "threads is 0: give 1 to 256"),
        ({"device": -1}, "device is -1"),
        ({"custom_ops": Path("/nowhere/lib.so")}, "there is no such file"),
    ],
)
def test_a_placement_out_of_range_is_refused(fields: dict[str, int], message: str):
    with pytest.raises(ProviderError, match=message):
        Placement(**fields)  # type: ignore[arg-type]


def test_a_library_that_has_no_custom_operators_is_refused(model: bytes, tmp_path: Path):
    library = tmp_path / "lib.so"
    library.write_bytes(b"no library")
    with pytest.raises(ProviderError, match="no provider runs the model"):
        choose(model, wanted=["cpu"], placement=Placement(custom_ops=library))


def test_reasons_are_bounded(model: bytes):
    huge = {"x" * 5000: np.zeros(1, np.float32)}
    with pytest.raises(ProviderError) as refused:
        choose(model, wanted=["cpu"], probe=huge)
    assert len(refused.value.fallbacks[0].reason) <= 500
