import csv
import gzip
import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from feedback.imports import litellm, obd, openai_jsonl, vllm_sr
from feedback.imports.files import ImportFileError, records
from feedback.imports.rows import Account, Reader, Row
from kernels.signals.text import SIGNAL_SCHEMA, read_messages
from tests.feedback.imports import samples

SIGNALS = read_messages(samples.MESSAGES)


def read(reader: Reader, *entries: dict[str, Any]) -> tuple[list[Row], Account]:
    account = Account()
    return list(reader.read(entries, account)), account


def test_a_router_replay_becomes_a_row_without_a_propensity_and_says_what_stayed_behind():
    rows, account = read(vllm_sr, samples.vllm_sr(1))
    [row] = rows
    assert (row.key, row.models, row.session_id) == ("replay_1", ("qwen-small",), "s-1")
    assert row.at == datetime(2026, 2, 1, 10, 0, 1, 500_000, tzinfo=UTC)
    assert row.propensity is None
    assert row.values == {
        "input_tokens": 9, "output_tokens": 4, "cost_usd": 0.0002, "error": 0,
    }  # fmt: skip
    assert row.context == {
        **SIGNALS,
        "domain": "math",
        "decision": "math_route",
        "signal_domain": "math",
        "signal_complexity": "deep,hard",
    }
    lost = {of for of, _ in account.lost}
    assert lost == {
        "propensity", "latency_s", "response_body", "reasoning_mode", "confidence_score",
    }  # fmt: skip
    assert not account.skipped


@pytest.mark.parametrize(
    ("fields", "of"),
    [
        ({"from_cache": True}, "from_cache"),
        ({"pii_blocked": True}, "response_status"),
        ({"selected_model": ""}, "selected_model"),
        ({"id": "", "request_id": None}, "id"),
    ],
)
def test_what_no_model_answered_is_no_decision(fields: dict[str, Any], of: str):
    rows, account = read(vllm_sr, samples.vllm_sr(1, **fields), samples.vllm_sr(2))
    assert len(rows) == 1
    assert [name for name, _ in account.skipped] == [of]
    assert account.read == 2


def test_a_verdict_becomes_feedback_and_a_cost_in_other_money_does_not_become_dollars():
    outcomes = [{"verdict": "underpowered"}, {"verdict": "good_fit", "source": "judge"}]
    [row], account = read(vllm_sr, samples.vllm_sr(1, outcomes=outcomes, currency="EUR"))
    assert row.said == {"verdict": "good_fit"}
    assert "cost_usd" not in row.values
    assert account.lost["actual_cost", "is in EUR, not USD"] == 1
    assert account.lost["outcomes", "only the last verdict of a record counts"] == 1


def test_a_replay_without_a_captured_prompt_has_no_signals_and_says_so():
    [row], account = read(vllm_sr, samples.vllm_sr(1, request_body=""))
    assert row.text is None
    assert not {feature["name"] for feature in SIGNAL_SCHEMA} & row.context.keys()
    assert any(of == "request_body" for of, _ in account.lost)


def test_a_spend_log_becomes_a_row_with_what_was_measured():
    [row], account = read(litellm, samples.litellm(1))
    assert row.models == ("gpt-4o-mini", "openai/gpt-4o-mini", "chat")
    assert row.at == datetime(2026, 2, 1, 10, 0, 1, tzinfo=UTC)
    assert row.values == {
        "input_tokens": 20, "output_tokens": 10, "cost_usd": 0.00031, "latency_s": 0.75,
        "ttft_s": 0.25, "error": 0,
    }  # fmt: skip
    assert row.context == SIGNALS
    assert (row.response_id, row.propensity) == ("chatcmpl-1", None)
    assert {of for of, _ in account.lost} == {"propensity", "api_key", "response", "request_tags"}


def test_a_spend_log_tells_failures_caches_and_other_calls_apart():
    rows, account = read(
        litellm,
        samples.litellm(1, status="failure", completion_tokens=0),
        samples.litellm(2, cache_hit="True"),
        samples.litellm(3, call_type="aembedding"),
        samples.litellm(4, status=None, messages={}),
    )
    assert [row.values.get("error") for row in rows] == [1, None]
    assert "output_tokens" not in rows[0].values
    assert {of for of, _ in account.skipped} == {"cache_hit", "call_type"}
    assert {"status", "messages"} <= {of for of, _ in account.lost}


def test_a_batchs_results_find_their_requests_wherever_they_stand():
    entries = [samples.result(1), samples.request(2), samples.request(1), samples.request(3)]
    [row], account = read(openai_jsonl, *entries)
    assert (row.query, row.text) == ("q-1", "What is 12 * 7?")
    assert row.models == ("gpt-4o-2024-08-06", "gpt-4o")
    assert row.context == SIGNALS
    assert row.values == {"input_tokens": 12, "output_tokens": 5, "error": 0}
    assert account.skipped == {("response", "a request without a result"): 2}


def test_two_models_asked_the_same_are_one_query_of_two_answers():
    both = [make(1, m) for make in (samples.request, samples.result) for m in ("gpt-4o", "o3")]
    rows, _ = read(openai_jsonl, *both)
    assert [(row.query, row.models[1]) for row in rows] == [("q-1", "gpt-4o"), ("q-1", "o3")]
    assert len({row.key for row in rows}) == 2


def test_a_pair_may_bring_what_no_body_holds():
    [row], account = read(openai_jsonl, samples.pair(1))
    assert row.propensity == 0.25
    assert row.said == {"score": 0.75}
    assert row.values["cost_usd"] == 0.001
    assert not account.lost


@pytest.mark.parametrize("propensity", [None, 0, -1, 1.5, "often", math.nan])
def test_a_probability_that_is_none_is_not_taken_for_one(propensity: object):
    [row], account = read(openai_jsonl, samples.pair(1, propensity=propensity))
    assert row.propensity is None
    assert account.lost.total() == 1


def test_a_failed_result_is_an_error_and_no_answer_of_some_length():
    failed = samples.result(1) | {"error": {"code": "x"}}
    [row], _ = read(openai_jsonl, failed, samples.request(1))
    assert row.values == {"error": 1}


def test_impressions_keep_their_propensity_and_equal_lines_stay_apart(tmp_path: Path):
    account = Account()
    rows = list(obd.read(records([samples.write_obd(tmp_path / "a.csv")], account), account))
    assert [row.models for row in rows] == [("0",), ("1",), ("1",), ("0",)]
    assert [row.propensity for row in rows] == [0.5, 0.5, 0.5, None]
    assert [row.said["click"] for row in rows] == [False, True, True, True]
    assert rows[0].context == {
        "position": "3", "user_feature_0": "cef3390e", "user_feature_1": "03a5648a",
        "affinity": [0.0, 1.0],
    }  # fmt: skip
    assert len({row.key for row in rows}) == 4
    assert {of for of, _ in account.lost} == {"propensity"}


def test_unknown_fields_are_named():
    _, account = read(vllm_sr, samples.vllm_sr(1, colour="red", shade=""))
    assert account.lost["colour", "unknown to this importer"] == 1
    assert not any(of == "shade" for of, _ in account.lost)


def test_files_may_be_an_array_a_list_lines_or_csv_plain_or_gzipped(tmp_path: Path):
    entries = [samples.litellm(n) for n in (1, 2)]
    array, listed, lines = (tmp_path / name for name in ("a.json", "b.json", "c.jsonl"))
    array.write_text(json.dumps(entries))
    listed.write_text(json.dumps({"object": "list", "data": entries}))
    samples.write_lines(lines, *entries)
    zipped, table = tmp_path / "d.jsonl.gz", tmp_path / "e.csv"
    zipped.write_bytes(gzip.compress(lines.read_bytes()))
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(entries[0]))
        writer.writeheader()
        writer.writerows([{**one, "request_tags": '["beta"]'} for one in entries])
    found = []
    for path in (array, listed, lines, zipped, table):
        account = Account()
        rows = list(litellm.read(records([path], account), account))
        found.append([(row.key, row.at, dict(row.values), dict(row.context)) for row in rows])
        assert not account.skipped
    assert all(one == found[0] for one in found)
    assert len(found[0]) == 2


def test_lines_that_are_no_records_are_counted_and_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\nnonsense\n[1]\n\n3\n')
    account = Account()
    assert len(list(records([path], account))) == 1
    assert account.skipped == {("line", "is not JSON"): 1, ("line", "is no JSON object"): 2}
    path = tmp_path / "y.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n")[:-6])
    with pytest.raises(ImportFileError, match=r"y\.csv\.gz"):
        list(records([path], account))


def test_the_open_bandit_tables_are_read_whole():
    root = os.environ.get("POINTSMAN_BENCH_DATA")
    if root is None:
        pytest.skip("POINTSMAN_BENCH_DATA names no tables")
    path = Path(root) / "public" / "obd_random_men.csv.gz"
    account = Account()
    rows = list(obd.read(records([path], account), account))
    assert len(rows) == account.read > 5_000
    assert not account.skipped
    assert not account.lost
    assert [row.propensity for row in rows] == pytest.approx([1 / 34] * len(rows))
    assert len({row.models for row in rows}) == 34
    assert len({row.key for row in rows}) == len(rows)
    assert sum(row.said["click"] for row in rows) / len(rows) == pytest.approx(0.005, abs=0.003)
