"""Small files in each format, made by hand after the formats' public descriptions."""

import json
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "What is 12 * 7?"}]


def vllm_sr(number: int, /, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"replay_{number}",
        "timestamp": f"2026-02-01T10:00:{number:02d}.5Z",
        "request_id": f"req-{number}",
        "decision": "math_route",
        "category": "math",
        "original_model": "auto",
        "selected_model": "qwen-small" if number % 2 else "qwen-large",
        "reasoning_mode": "on",
        "confidence_score": 0.83,
        "signals": {"domain": ["math"], "keyword": [], "complexity": ["hard", "deep"]},
        "request_body": json.dumps({"model": "auto", "messages": MESSAGES}),
        "response_body": "{}",
        "response_status": 200,
        "from_cache": False,
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "actual_cost": 0.0002,
        "currency": "USD",
        "session_id": "s-1",
    } | fields


def litellm(number: int, /, **fields: Any) -> dict[str, Any]:
    return {
        "request_id": f"chatcmpl-{number}",
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.00031,
        "total_tokens": 30,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "startTime": f"2026-02-01 10:00:{number:02d}.000",
        "endTime": f"2026-02-01 10:00:{number:02d}.750",
        "completionStartTime": f"2026-02-01 10:00:{number:02d}.250",
        "model": "gpt-4o-mini" if number % 2 else "gpt-4o",
        "model_group": "chat",
        "custom_llm_provider": "openai",
        "metadata": {},
        "cache_hit": "False",
        "messages": json.dumps(MESSAGES),
        "response": {"id": "x"},
        "request_tags": ["beta"],
        "session_id": "s-2",
        "status": "success",
    } | fields


def request(number: int, /, model: str = "gpt-4o") -> dict[str, Any]:
    return {
        "custom_id": f"q-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": MESSAGES},
    }


def body(number: int, /, model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{model}-{number}",
        "object": "chat.completion",
        "created": 1_769_940_000 + number,
        "model": f"{model}-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    } | fields


def result(number: int, /, model: str = "gpt-4o") -> dict[str, Any]:
    return {
        "id": f"batch_req_{number}",
        "custom_id": f"q-{number}",
        "response": {"status_code": 200, "request_id": "r", "body": body(number, model)},
        "error": None,
    }


def pair(number: int, /, model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"pair-{number}",
        "request": {"model": model, "messages": MESSAGES},
        "response": body(number, model),
        "latency_s": 0.8,
        "cost_usd": 0.001,
        "propensity": 0.25,
        "feedback": {"score": 0.75},
    } | fields


OBD_HEADER = (
    "timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,"
    "user-item_affinity_0,user-item_affinity_1"
)
OBD_LINES = (
    "2019-11-24 00:03:13.442536+00:00,0,3,0,0.5,cef3390e,03a5648a,0,1",
    "2019-11-24 00:03:36.705207+00:00,1,3,1,0.5,cef3390e,03a5648a,0,0",
    "2019-11-24 00:03:36.705207+00:00,1,3,1,0.5,cef3390e,03a5648a,0,0",  # really twice
    "2019-11-24 00:05:00+00:00,0,1,1,,03a5648a,03a5648a,0,2",
)


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_obd(path: Path, *lines: str) -> Path:
    path.write_text("\n".join((OBD_HEADER, *(lines or OBD_LINES))) + "\n")
    return path
