import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from kernels import tools_file
from kernels.tools import Refined, refine
from kernels.tools_file import FORMAT, ToolsFile, ToolsFileError, read, write
from kernels.tools_ranking import DEPTH, unit
from kernels.tools_rerank import fit
from tests.kernels import test_tools, test_tools_rerank

ENCODER = "minilm:0123"
METADATA = {
    "format": FORMAT,
    "encoder": ENCODER,
    "names": json.dumps(["weather", "stocks"]),
    "pull": "3.0",
    "push": "0.5",
    "before": "0.5",
    "after": "0.6",
}


def arrays():
    return {
        "descriptions": np.eye(2, 4, dtype=np.float32),
        "vectors": np.eye(2, 4, 1, dtype=np.float32),
        "favours": np.array([0.1, 0.0], np.float32),
        "refined": np.array([1, 0], np.uint8),
    }


def a_file(*, second=True):
    """Ten tools, of which one has few outcomes, and the world that they are of."""
    world = test_tools_rerank.World(0, few=(0,))
    refined = refine(world.tools, world.outcomes())
    names = tuple(f"tool-{row}" for row in range(len(world.tools)))
    looked = fit(world.tools, world.outcomes(), refined) if second else None
    assert (looked is None) != second
    return ToolsFile(names, ENCODER, refined, looked), world


def test_refined_tools_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "tools.safetensors"
    kept, _ = a_file(second=False)
    write(path, kept)
    found = read(path)
    assert (found.names, found.encoder, found.second) == (kept.names, ENCODER, None)
    for name in ("pull", "push", "before", "after"):
        assert getattr(found.refined, name) == getattr(kept.refined, name)
    for name in ("descriptions", "vectors", "favours", "refined"):
        np.testing.assert_array_equal(getattr(found.refined, name), getattr(kept.refined, name))


def test_a_second_look_orders_as_before_it_was_written(tmp_path):
    path = tmp_path / "tools.safetensors"
    kept, world = a_file()
    write(path, kept)
    found = read(path)
    assert found.second is not None
    assert found.second.gain == kept.second.gain
    assert found.size == world.test.shape[1]
    orders = [(found.order(query), kept.order(query)) for query in world.test]
    # Examples are rounded to half precision, which may swap two that are almost alike.
    assert np.mean([(one == two).all() for one, two in orders]) > 0.98
    bare = replace(found, second=None)
    assert any((found.order(query) != bare.order(query)).any() for query in world.test)


def test_some_of_the_tools_rank_as_they_would_were_there_no_others():
    kept, world = a_file()
    rows = np.array([7, 0, 3, 4, 9, 2])
    alone = ToolsFile(
        tuple(kept.names[row] for row in rows),
        ENCODER,
        kept.refined.only(rows),
        kept.second.only(rows),
    )
    for query in world.test[::7]:
        order = kept.order(query, rows)
        np.testing.assert_array_equal(order, rows[alone.order(query)])
        assert sorted(order) == sorted(rows)


def test_a_tool_that_was_not_refined_keeps_its_place_among_those_that_are_ranked():
    world = test_tools.World(0, cold=(0, 1, 2))
    refined = refine(world.tools, world.outcomes())
    file = ToolsFile(tuple(map(str, range(12))), ENCODER, refined)
    rows = np.array([1, 5, 2, 8, 11, 6])
    moved = 0
    for query in world.test:
        order = file.order(query, rows).tolist()
        first = rows[np.argsort(-(world.tools[rows] @ query), kind="stable")].tolist()
        moved += order != first
        assert [order.index(row) for row in (1, 2)] == [first.index(row) for row in (1, 2)]
    assert moved > 0


def test_the_best_are_the_first_of_the_order_however_many_are_wanted():
    kept, world = a_file()
    rows = np.arange(10)
    for most in range(1, 11):
        for query in world.test[::20]:
            first = kept.order(query, rows)[:most]
            assert sorted(kept.best(query, rows, most)) == sorted(first)


def test_fewer_tools_than_a_second_look_takes_are_ordered_too():
    kept, world = a_file()
    rows = np.array([3, 8])
    assert len(rows) < DEPTH
    assert sorted(kept.order(world.test[0], rows).tolist()) == [3, 8]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "pointsman.tools/1"}, "refine again"),
        ({"names": '["weather"]'}, "descriptions has the shape"),
        ({"names": '["weather", "weather"]'}, "each once"),
        ({"names": '["weather", 3]'}, "the name 3 is none"),
        ({"names": json.dumps(["weather", "w" * 201])}, "1 to 200 characters"),
        ({"names": "[" * 5_000}, "refine again"),
        ({"pull": "much"}, "refine again"),
        ({"encoder": None}, "encoder"),
        ({"gain": "0.1"}, "examples"),
    ],
)
def test_a_file_whose_head_is_wrong_is_refused_with_the_remedy(tmp_path, change, said):
    path = tmp_path / "tools.safetensors"
    told = {name: value for name, value in (METADATA | change).items() if value is not None}
    path.write_bytes(save(arrays(), told))
    with pytest.raises(ToolsFileError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vectors": np.eye(2, 3, dtype=np.float32)}, "vectors has the shape"),
        ({"vectors": np.eye(2, 4, dtype=np.float64)}, "float64"),
        ({"vectors": np.full((2, 4), np.nan, np.float32)}, "vectors holds what is no number"),
        ({"favours": np.zeros(3, np.float32)}, "favours has the shape"),
        ({"refined": np.zeros(2, np.float32)}, "refined has the shape"),
        ({"descriptions": None}, "descriptions"),
    ],
)
def test_a_file_whose_arrays_are_wrong_is_refused(tmp_path, change, said):
    path = tmp_path / "tools.safetensors"
    held = {name: value for name, value in (arrays() | change).items() if value is not None}
    path.write_bytes(save(held, METADATA))
    with pytest.raises(ToolsFileError, match=said):
        read(path)


def test_a_second_look_at_examples_that_are_not_there_is_refused(tmp_path):
    path = tmp_path / "tools.safetensors"
    kept, _ = a_file()
    write(path, replace(kept, second=replace(kept.second, places=kept.second.places + 10_000)))
    with pytest.raises(ToolsFileError, match="places are not those of"):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"query": np.zeros((3, 1), np.int32)},
        {"examples": np.zeros((0, 4), np.float16), "query": np.zeros(0, np.int32)},
    ],
)
def test_a_second_look_of_other_shapes_is_refused_before_any_request(tmp_path, change):
    path = tmp_path / "tools.safetensors"
    kept, _ = a_file()
    write(path, kept)
    told = tools_file._metadata(path.read_bytes())
    path.write_bytes(save({**load(path.read_bytes()), **change}, dict(told)))
    with pytest.raises(ToolsFileError, match="refine again"):
        read(path)


def test_a_file_without_a_head_is_refused(tmp_path):
    path = tmp_path / "tools.safetensors"
    path.write_bytes(save(arrays()))
    with pytest.raises(ToolsFileError, match="has the format None"):
        read(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_written_in_part_is_refused(tmp_path, share):
    path = tmp_path / "tools.safetensors"
    write(path, a_file()[0])
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ToolsFileError, match="is not what `pointsman tools refine` wrote"):
        read(path)


def test_a_file_past_the_limit_is_neither_written_nor_read(tmp_path, monkeypatch):
    path = tmp_path / "tools.safetensors"
    kept, _ = a_file()
    write(path, kept)
    before = path.read_bytes()
    monkeypatch.setattr(tools_file, "MAX_BYTES", len(before) - 1)
    with pytest.raises(ToolsFileError, match="at most"):
        write(path, kept)
    assert path.read_bytes() == before
    with pytest.raises(ToolsFileError, match="refine fewer tools"):
        read(path)


def test_a_new_file_takes_the_place_of_the_old_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "tools.safetensors"
    path.write_bytes(b"old")
    write(path, a_file()[0])
    assert set(load(path.read_bytes())) > {"vectors", "examples"}
    assert list(tmp_path.iterdir()) == [path]


def test_tools_are_selected_with_all_that_belongs_to_them():
    vectors = unit(np.random.default_rng(0).normal(size=(4, 3)))
    favours = np.arange(4, dtype=np.float32)
    refined = Refined(vectors, -vectors, favours, favours > 1, 1.0, 0.0, 0.1, 0.2)
    found = refined.only(np.array([3, 0]))
    np.testing.assert_array_equal(found.descriptions, vectors[[3, 0]])
    np.testing.assert_array_equal(found.vectors, -vectors[[3, 0]])
    assert (found.favours.tolist(), found.refined.tolist()) == ([3.0, 0.0], [True, False])
    assert (found.pull, found.after) == (1.0, 0.2)
