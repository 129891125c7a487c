"""The control plane as an edge sees it: bundles come, decisions, outcomes and status go."""

import asyncio
import gzip
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from edge.backoff import read_retry_after
from edge.errors import ControlPlaneError, TooLargeError
from edge.spool import Kind

_PATHS: dict[Kind, str] = {
    "decision": "/v1/decisions:batch",
    "outcome": "/v1/outcomes:batch",
}
# The same bytes would be refused again; were they kept, nothing behind them would ever leave.
_FINAL = {400, 413, 415, 422}
_TIMEOUT_S = 30.0
_GZIP_LEVEL = 3
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Download:
    """A sealed bundle as it came, not yet believed."""

    data: bytes
    etag: str | None


class Rejected(msgspec.Struct, frozen=True):
    """A line that the control plane will never take."""

    line: int
    field: str | None = None
    detail: str = ""


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejected] = []


class ControlPlane:
    """Calls of the control plane; every failure is a :class:`ControlPlaneError`."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, edge_id: str, max_bundle_bytes: int
    ) -> None:
        """``session`` carries the credential."""
        self._session = session
        self._url = url.rstrip("/")
        self._edge_id = edge_id
        self._max_bundle_bytes = max_bundle_bytes

    async def bundle(self, policy: str, *, etag: str | None, wait_s: float) -> Download | None:
        """The policy's newest bundle, or None when ``etag`` still names it after ``wait_s``."""
        headers = {"Prefer": f"wait={math.ceil(wait_s)}"} if wait_s else {}
        if etag is not None:
            headers["If-None-Match"] = etag
        path = f"/v1/bundles/{quote(policy, safe='')}"
        async with self._call("GET", path, headers=headers, timeout_s=wait_s + _TIMEOUT_S) as found:
            if found.status == 304:
                return None
            await _check(found)
            data = await _bounded(found, self._max_bundle_bytes, "bundle")
            return Download(data, found.headers.get("ETag"))

    async def upload(self, kind: Kind, lines: Sequence[bytes]) -> Receipt:
        """Send one batch of lines."""
        body = await asyncio.to_thread(gzip.compress, b"\n".join(lines) + b"\n", _GZIP_LEVEL)
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        async with self._call("POST", _PATHS[kind], headers=headers, data=body) as found:
            await _check(found)
            answer = await _bounded(found, _MAX_ANSWER_BYTES, "receipt")
        try:
            return msgspec.json.decode(answer, type=Receipt)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ControlPlaneError(f"the receipt cannot be read: {error}") from error

    async def report(self, status: Mapping[str, Any]) -> None:
        """Say what this edge serves and refused."""
        path = f"/v1/edges/{quote(self._edge_id, safe='')}/status"
        headers = {"Content-Type": "application/json"}
        body = msgspec.json.encode(status)
        async with self._call("POST", path, headers=headers, data=body) as found:
            await _check(found)

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        data: bytes | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            # A redirect would carry the credential elsewhere, so none is followed.
            async with self._session.request(
                method,
                self._url + path,
                headers=headers,
                data=data,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0),
                allow_redirects=False,
            ) as response:
                yield response
        except TimeoutError as error:
            raise ControlPlaneError(f"{method} {path}: no answer in {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ControlPlaneError(f"{method} {path}: {error!r}") from error


async def _check(response: aiohttp.ClientResponse) -> None:
    if 200 <= response.status < 300:
        return
    detail = (await response.content.read(_MAX_DETAIL)).decode("utf-8", "replace")
    raise ControlPlaneError(
        f"{response.method} {response.url.path}: {response.status} {detail}",
        final=response.status in _FINAL,
        missing=response.status == 404,
        retry_after_s=read_retry_after(response.headers.get("Retry-After")),
    )


async def _bounded(response: aiohttp.ClientResponse, limit: int, name: str) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise TooLargeError(
                f"the {name} is larger than {limit} bytes: it is not read",
                etag=response.headers.get("ETag"),
            )
        chunks.append(chunk)
    return b"".join(chunks)
