"""One request to one arm, over HTTP."""

import re
from collections.abc import Callable, Mapping
from time import monotonic

import aiohttp

from edge.backoff import read_retry_after
from edge.errors import UpstreamError
from learners.records import Arm

# 401, 403 and 404 speak of the edge's own key and model name there, never of the client's.
_FAILED = frozenset({401, 403, 404, 408, 429})
RESEND_WITHIN_S = 1.0
_FORWARDED = ("Accept", "X-Request-Id", "Traceparent", "Tracestate", "Idempotency-Key")
# Named in a bundle, so they could send this edge's own secrets to an arm.
_PRIVATE = re.compile(r"POINTSMAN_", re.IGNORECASE)


class Upstream:
    """Sends chat requests to arms; ``environ`` holds their keys."""

    def __init__(
        self, session: aiohttp.ClientSession, environ: Mapping[str, str], *, max_bytes: int
    ) -> None:
        """``max_bytes`` bounds an answer that is not streamed."""
        self._session = session
        self._environ = environ
        self._max_bytes = max_bytes

    async def open(
        self, arm: Arm, body: bytes, given: Mapping[str, str], *, again: bool = False
    ) -> aiohttp.ClientResponse:
        """The arm's answer, its body not yet read; ``again`` says that another arm had failed.

        Raises:
            UpstreamError: There is none, or it says that the arm has failed.
        """
        if not arm.endpoint:
            raise UpstreamError("no_endpoint", f"arm {arm.name!r} has no endpoint")
        try:
            response = await self._post(arm, body, self._headers(arm, given, again=again))
        except TimeoutError as error:
            raise UpstreamError("timeout", f"arm {arm.name!r} did not answer in time") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise UpstreamError("connection", f"arm {arm.name!r}: {error!r}") from error
        if _failed(response.status):
            response.close()
            raise UpstreamError(
                f"status_{response.status}",
                f"arm {arm.name!r} answered {response.status}",
                status=response.status,
                retry_after_s=read_retry_after(response.headers.get("Retry-After")),
            )
        return response

    async def _post(
        self, arm: Arm, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        url = f"{arm.endpoint.rstrip('/')}/chat/completions"
        started = monotonic()
        try:
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ServerDisconnectedError:
            # A kept connection that the arm closed as we wrote is no failure of the arm.
            if monotonic() - started > RESEND_WITHIN_S:
                raise
        return await self._session.post(url, data=body, headers=headers, allow_redirects=False)

    def _headers(self, arm: Arm, given: Mapping[str, str], *, again: bool) -> dict[str, str]:
        # The client's own credential is for this edge, so it is not among those sent on.
        headers = {name: given[name] for name in _FORWARDED if name in given}
        if again:
            # Behind one gateway both arms' requests would be one to it, of two different bodies.
            headers.pop("Idempotency-Key", None)
        headers["Content-Type"] = "application/json"
        headers["Accept-Encoding"] = "identity"
        if arm.api_key_env and not _PRIVATE.match(arm.api_key_env):
            key = self._environ.get(arm.api_key_env)
            if key:
                headers["Authorization"] = f"Bearer {key}"
        return headers

    async def read(
        self,
        response: aiohttp.ClientResponse,
        arm: Arm,
        heard: Callable[[bytes, float], None] | None = None,
    ) -> bytes:
        """The whole body; ``heard`` gets each part of it, and the monotonic time when it came.

        Raises:
            UpstreamError: It breaks off, is too large, or says that all is well and nothing else.
        """
        chunks, size = [], 0
        while chunk := await self.read_some(response, arm):
            size += len(chunk)
            if size > self._max_bytes:
                raise UpstreamError(
                    "too_large", f"arm {arm.name!r} sent more than {self._max_bytes} bytes"
                )
            chunks.append(chunk)
            if heard is not None:
                heard(chunk, monotonic())
        if not size:
            check_not_empty(response, arm)
        return b"".join(chunks)

    async def read_some(self, response: aiohttp.ClientResponse, arm: Arm) -> bytes:
        """What has come, at least one byte, or nothing at the end.

        Raises:
            UpstreamError: The connection broke.
        """
        try:
            return await response.content.readany()
        except TimeoutError as error:
            raise UpstreamError("timeout", f"arm {arm.name!r} fell silent") from error
        except aiohttp.ClientError as error:
            raise UpstreamError("broken", f"arm {arm.name!r} broke off: {error!r}") from error


def check_not_empty(response: aiohttp.ClientResponse, arm: Arm) -> None:
    """Refuse success without an answer.

    Raises:
        UpstreamError: The body, which is empty, should not be.
    """
    if response.status < 400:
        raise UpstreamError("empty", f"arm {arm.name!r} sent nothing with a {response.status}")


def _failed(status: int) -> bool:
    # A redirect leads the client past the edge, to where it has no key and maybe no way.
    return 300 <= status < 400 or status in _FAILED or status >= 500
