"""The other end of the edge's benchmark, in a process of its own: one arm and a control plane.

It answers every chat at once with the same bytes, and takes every upload without looking.
"""

import asyncio
import json

import uvloop
from aiohttp import web

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "arm",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 200},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 90, "completion_tokens": 200, "total_tokens": 290},
    }
).encode()


async def _chat(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def _batch(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"accepted": 0, "duplicates": 0, "rejected": []})


async def _bundle(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.headers.get("Prefer", "wait=1").removeprefix("wait=")))
    return web.Response(status=304)


async def _status(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=204)


async def serve() -> None:
    """Serve until killed; the first line printed holds the port."""
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes(
        [
            web.post("/v1/chat/completions", _chat),
            web.post("/v1/decisions:batch", _batch),
            web.post("/v1/outcomes:batch", _batch),
            web.get("/v1/bundles/{policy}", _bundle),
            web.post("/v1/edges/{edge}/status", _status),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"ready": True, "port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
