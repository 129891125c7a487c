"""Bodies are bounded before anything reads them; uploads of lines keep their own, larger limits."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.errors import ProblemError

MAX_BODY = 4 * 2**20
_OWN_LIMITS = {"/v1/decisions:batch", "/v1/outcomes:batch"}


class BodyLimit:
    """Refuses a body of more than MAX_BODY bytes with 413, whatever its headers claim."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting."""
        if scope["type"] != "http" or scope["path"] in _OWN_LIMITS:
            await self._app(scope, receive, send)
            return
        # A length that is announced is refused before it is sent.
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BODY:
            await _too_large().response()(scope, receive, send)
            return
        await self._app(scope, _counting(receive), send)


def _counting(receive: Receive) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY:
            raise _too_large()
        return message

    return counted


def _too_large() -> ProblemError:
    return ProblemError(
        413, f"the body has more than {MAX_BODY:,} bytes", remedy="send it in smaller parts"
    )
