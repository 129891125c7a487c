import json

import pytest

from bench import kernels_tools_serving as serving
from kernels.tools_file import read, write


def test_every_tool_of_the_request_is_one_of_the_file(tmp_path):
    file = serving.drawn("bench", second=True)
    offered = json.loads(serving.a_request("Which?"))["tools"]
    assert [one["function"]["name"] for one in offered] == list(file.names)
    assert len(file.names) == serving.TOOLS
    path = tmp_path / "tools.safetensors"
    write(path, file)
    assert read(path).second is not None


@pytest.mark.parametrize("second", [False, True])
def test_narrowing_by_itself_is_timed(second):
    work = serving.narrowing(serving.drawn("bench", second=second), 3)
    assert 0 < work() < 10


def test_the_policy_asks_for_the_embedding_so_that_the_encoder_is_read_either_way():
    bundle = serving.embedded("http://127.0.0.1:9/v1")
    bundle.self_test()
    assert bundle.schema.features[-1].name == "embedding"
    assert bundle.schema.features[-1].size == serving.SIZE
