import importlib.util

import pytest

from bench.kernels import PARTS, parse


def test_all_parts_are_run_where_none_is_named():
    assert parse(["--quick"]) == (list(PARTS), ["--quick"])


def test_named_parts_are_run_alone_and_other_arguments_are_kept():
    assert parse(["--part", "attention", "--json"]) == (["attention"], ["--json"])


def test_an_unknown_part_is_refused():
    with pytest.raises(SystemExit):
        parse(["--part", "nothing"])


def test_the_attention_part_is_there():
    assert importlib.util.find_spec(PARTS["attention"]) is not None
