"""The pool as a process, asked by the real ``openai`` client."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from controlplane.simulation.grading import quality_of
from controlplane.simulation.prompts import key_of, with_key
from controlplane.simulation.table_world import TableWorld
from controlplane.simulation.tables import read_table
from controlplane.simulation.world import default_world

READY_S = 30.0
STOP_S = 10.0
PROMPT = "Write a Python function that parses JSON payloads and returns an enum. (case 3)"

QUERIES_CSV = """query_id,query_text,domain
q-1,What is two and two?,maths
q-2,Name a river,geography
"""
OUTCOMES_CSV = """query_id,model,score,cost_usd,latency_s,input_tokens,output_tokens
q-1,vendor/cheap,0.25,0.001,0.5,7,11
q-1,dear,1,0.01,1.5,7,40
q-2,vendor/cheap,0.5,0.001,0.5,3,9
q-2,dear,0.75,0.01,1.5,3,30
"""


class Running:
    """A pool that runs, and its ready line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.ready = json.loads(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.ready['port']}"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def patch(self, arm: str, body: object) -> httpx.Response:
        return httpx.patch(f"{self.url}/admin/arms/{arm}", json=body)


@contextmanager
def running(*options: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "controlplane.simulation.pool", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running("--speed", "0", "--seed", "4") as pool:
        yield pool


@pytest.fixture
def client(shared: Running) -> Iterator[openai.OpenAI]:
    with shared.client() as client:
        yield client


def ask(client: openai.OpenAI, arm: str, prompt: str = PROMPT):
    return client.chat.completions.create(model=arm, messages=[{"role": "user", "content": prompt}])


def stream(client: openai.OpenAI, arm: str, prompt: str = PROMPT, *, usage: bool = True):
    return client.chat.completions.create(
        model=arm,
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": usage},
    )


def test_the_ready_line_names_port_and_arms(shared):
    assert shared.ready["ready"] is True
    assert shared.ready["port"] > 0
    assert shared.ready["arms"] == list(default_world().arm_names)
    assert httpx.get(f"{shared.url}/healthz").json() == {"status": "ok", "arms": 5}


def test_the_answer_carries_the_score_and_usage_of_the_world(client):
    expected = default_world(4).answer(key_of(PROMPT), "coder", PROMPT)
    found = ask(client, "coder")
    assert quality_of(found.choices[0].message.content) == pytest.approx(expected.score, abs=0.005)
    assert found.choices[0].finish_reason == "stop"
    assert found.model == "coder"
    assert found.usage is not None
    assert found.usage.prompt_tokens == expected.input_tokens
    assert found.usage.completion_tokens == expected.output_tokens
    assert found.usage.total_tokens == expected.input_tokens + expected.output_tokens


def test_a_streamed_answer_is_the_same_text_in_pieces_with_usage_at_its_end(client):
    whole = ask(client, "coder")
    events = list(stream(client, "coder"))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert events[-1].usage == whole.usage
    assert [event.usage for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-2].choices[0].finish_reason == "stop"
    assert len(events) > 5
    assert len({event.id for event in events}) == 1


def test_a_stream_has_no_usage_unless_it_is_asked_for(client):
    events = list(stream(client, "coder", usage=False))
    assert all(event.choices and event.usage is None for event in events)


def test_the_same_prompt_and_arm_get_the_same_text_and_another_id(client):
    first, second = ask(client, "medium"), ask(client, "medium")
    assert first.choices == second.choices
    assert first.id != second.id


def test_content_parts_and_several_messages_are_read(client):
    found = client.chat.completions.create(
        model="coder",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        ],
        max_tokens=4,
    )
    text = f"Be brief.\n{PROMPT}"
    expected = default_world(4).answer(key_of(text), "coder", text)
    assert quality_of(found.choices[0].message.content) == pytest.approx(expected.score, abs=0.005)
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.completion_tokens == 4


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == list(default_world().arm_names)
    assert client.models.retrieve("large").id == "large"


def test_an_unknown_model_is_a_404_in_openai_form(client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "gpt-0")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-0")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"not json", None),
        (b"[]", None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "small"}', "messages"),
        (b'{"model": "small", "messages": []}', "messages"),
        (b'{"model": "small", "messages": [{"content": "x"}]}', "messages"),
        (b'{"model": "small", "messages": [{"role": "user", "content": 3}]}', "messages"),
        (b'{"model":"small","messages":[{"role":"user","content":"x"}],"n":[2]}', "n"),
        (b'{"model":"small","messages":[{"role":"user","content":"x"}],"stream":1}', "stream"),
        (
            b'{"model":"small","messages":[{"role":"user","content":"x"}],"max_tokens":0}',
            "max_tokens",
        ),
        (b"[" * 100_000, None),
    ],
)
def test_a_bad_body_is_a_400_that_names_the_parameter(shared, body, param):
    found = httpx.post(f"{shared.url}/v1/chat/completions", content=body)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


def test_a_body_past_the_limit_is_a_413_and_an_unknown_path_a_404(shared):
    large = httpx.post(f"{shared.url}/v1/chat/completions", content=b" " * (4 * 1024 * 1024 + 1))
    assert large.status_code == 413
    assert "bytes" in large.json()["error"]["message"]
    assert httpx.get(f"{shared.url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{shared.url}/v1/chat/completions").status_code == 405


def test_an_arm_made_to_fail_fails_in_openai_form_until_its_lever_is_put_back():
    with running("--speed", "0") as pool, pool.client() as client:
        assert pool.patch("coder", {"failure_rate": 1.0}).status_code == 200
        failures = []
        for i in range(30):
            with pytest.raises((openai.RateLimitError, openai.InternalServerError)) as caught:
                ask(client, "coder", f"question {i}")
            failures.append(caught.value)
        assert {failure.status_code for failure in failures} == {429, 500, 503}
        assert all(failure.code for failure in failures)
        waits = {f.response.headers.get("retry-after") for f in failures if f.status_code == 429}
        assert waits == {"1"}
        with pytest.raises(openai.APIStatusError):
            list(stream(client, "coder"))
        assert ask(client, "medium").choices
        shown = {arm["arm"]: arm for arm in httpx.get(f"{pool.url}/admin/arms").json()["arms"]}
        assert (shown["coder"]["requests"], shown["coder"]["failures"]) == (31, 31)
        assert shown["coder"]["levers"]["failure_rate"] == 1.0
        assert pool.patch("coder", {"failure_rate": None}).status_code == 200
        assert ask(client, "coder").choices


def test_a_skill_shift_changes_the_quality_from_then_on():
    with running("--speed", "0") as pool, pool.client() as client:
        before = quality_of(ask(client, "coder").choices[0].message.content)
        assert before is not None
        shown = pool.patch("coder", {"skill_shift": {"code": -0.5}}).json()
        assert shown["levers"]["skill_shift"] == {"code": -0.5}
        after = quality_of(ask(client, "coder").choices[0].message.content)
        assert after == pytest.approx(before - 0.5, abs=0.011)
        assert pool.patch("coder", {"skill_shift": -0.25}).status_code == 200
        after = quality_of(ask(client, "coder").choices[0].message.content)
        assert after == pytest.approx(before - 0.25, abs=0.011)


def test_a_latency_factor_slows_an_arm():
    with running("--speed", "100") as pool:
        assert pool.patch("small", {"latency_factor": 20.0}).status_code == 200
        usual = default_world().answer(key_of(PROMPT), "small", PROMPT)
        body = {"model": "small", "messages": [{"role": "user", "content": PROMPT}]}
        found = httpx.post(f"{pool.url}/v1/chat/completions", json=body)
        assert found.status_code == 200
        assert found.elapsed.total_seconds() >= 20.0 * usual.latency_s / 100.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"failure_rate": 1.5}, "failure_rate is 1.5"),
        ({"failure_rate": "often"}, "give a number"),
        ({"failure_rate": True}, "give a number"),
        ({"skill_shift": {"law": None}}, "give a number"),
        ({"skill_shift": {"cooking": 0.1}}, "no domain"),
        ({"latency_factor": -1}, "latency_factor is -1"),
        ({"price": 3}, "no lever 'price'"),
        ([], "not a JSON object"),
    ],
)
def test_a_bad_lever_is_refused_and_changes_nothing(shared, body, words):
    before = httpx.get(f"{shared.url}/admin/arms").json()
    found = shared.patch("large", body)
    assert found.status_code == 400
    assert words in found.json()["error"]["message"]
    assert httpx.get(f"{shared.url}/admin/arms").json() == before


def test_the_levers_of_an_unknown_arm_are_a_404(shared):
    assert shared.patch("gpt-0", {"failure_rate": 0.1}).status_code == 404


def test_drifts_from_a_file_come_in_force_at_their_request(tmp_path):
    path = tmp_path / "drifts.json"
    path.write_text('[{"arm": "coder", "at_request": 2, "failure_rate": 1}]')
    with running("--speed", "0", "--drifts", str(path)) as pool, pool.client() as client:
        assert ask(client, "coder").choices
        assert ask(client, "coder").choices
        with pytest.raises(openai.APIStatusError):
            ask(client, "coder")


def test_a_table_is_answered_from_by_the_key_at_the_end_of_the_prompt(tmp_path):
    queries, outcomes = table_files(tmp_path)
    options = ("--speed", "0", "--queries", str(queries), "--outcomes", str(outcomes))
    with running(*options) as pool, pool.client() as client:
        assert pool.ready["arms"] == ["dear", "vendor/cheap"]
        found = ask(client, "vendor/cheap", with_key("What is two and two?", "q-1"))
        assert quality_of(found.choices[0].message.content) == 0.25
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 11)
        events = list(stream(client, "dear", with_key("Name a river", "q-2")))
        text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert quality_of(text) == 0.75
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "dear", "What is two and two?")
        assert caught.value.code == "unknown_query"
        shown = pool.patch("vendor/cheap", {"skill_shift": {"maths": -0.25}})
        assert shown.json()["arm"] == "vendor/cheap"
        found = ask(client, "vendor/cheap", with_key("What is two and two?", "q-1"))
        assert quality_of(found.choices[0].message.content) == 0.0
    with running(*options, "--arms", "dear") as pool:
        assert pool.ready["arms"] == ["dear"]


def test_real_outcomes_flow_through_real_http():
    root = os.environ.get("POINTSMAN_BENCH_DATA")
    if not root:
        pytest.skip("POINTSMAN_BENCH_DATA is not set: no tables of real outcomes")
    queries, outcomes = (
        Path(root) / "public" / f"bfcl.{name}.csv.gz" for name in ("queries", "outcomes")
    )
    arms = read_table(queries, outcomes).arms[:2]
    world = TableWorld(read_table(queries, outcomes, arms))
    options = ("--queries", str(queries), "--outcomes", str(outcomes), "--arms", ",".join(arms))
    with running("--speed", "0", *options) as pool, pool.client() as client:
        for query in world.prompts(10, np.random.default_rng(0)):
            for arm in arms:
                found = quality_of(ask(client, arm, query.prompt).choices[0].message.content)
                expected = world.answer(query.key, arm, query.prompt).score
                assert found == pytest.approx(expected, abs=0.005)


def test_a_signal_lets_answers_under_way_end_and_then_stops_cleanly():
    with running("--speed", "0.5") as pool, httpx.Client(timeout=30.0) as client:
        body = {
            "model": "small",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 20,
            "stream": True,
        }
        with client.stream("POST", f"{pool.url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            pool.process.send_signal(signal.SIGTERM)
            assert "data: [DONE]" in list(lines)
        assert pool.process.wait(STOP_S) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arms", "small,gone"), "no arm 'gone'"),
        (("--queries", "missing.csv", "--outcomes", "missing.csv"), "missing.csv"),
        (("--queries", "missing.csv"), "both --queries and --outcomes"),
        (("--speed", "-1"), "--speed -1"),
        (("--drifts", "missing.json"), "missing.json"),
    ],
)
def test_a_wrong_option_ends_with_2_and_says_why(options, words):
    command = [sys.executable, "-m", "controlplane.simulation.pool", "--port", "0", *options]
    found = subprocess.run(command, capture_output=True, check=False, text=True, timeout=READY_S)
    assert found.returncode == 2
    assert words in found.stderr
    assert found.stdout == ""


def test_the_pool_needs_no_server_library():
    code = (
        "import sys; import controlplane.simulation.pool, controlplane.simulation.traffic\n"
        "bad = {'fastapi', 'sqlalchemy', 'psycopg', 'celery', 'redis', 'pandas', 'river',"
        " 'vowpal_wabbit_next', 'uvicorn', 'scipy'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, check=True, text=True, timeout=READY_S)
    assert found.stdout.strip() == "[]"


def table_files(folder: Path) -> tuple[Path, Path]:
    queries, outcomes = folder / "queries.csv", folder / "outcomes.csv"
    queries.write_text(QUERIES_CSV)
    outcomes.write_text(OUTCOMES_CSV)
    return queries, outcomes
