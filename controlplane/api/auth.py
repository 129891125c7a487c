"""Who calls, and whether the key may: ``Authorization: Bearer pm_…``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from controlplane import keys
from controlplane.api.errors import ProblemError
from controlplane.api.runtime import Api, Runtime
from storage.projects import StoredKey

_BEARER = HTTPBearer(
    auto_error=False, scheme_name="key", description="An API key: `pm_<prefix>_<secret>`"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request."""

    key: StoredKey

    @property
    def project_id(self) -> UUID:
        """The only project whose rows the request may touch."""
        return self.key.project_id

    @property
    def source(self) -> str:
        """How this caller's feedback is signed, whatever a body says."""
        return f"key:{self.key.name or self.key.prefix}"


def requires(*scopes: str) -> Callable[..., Caller]:
    """A dependency: the caller, whose key has one of the scopes (or admin)."""

    def authenticate(
        api: Api, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
    ) -> Caller:
        return identify(api, bearer.credentials if bearer else None, scopes)

    return authenticate


def identify(api: Runtime, token: str | None, scopes: tuple[str, ...]) -> Caller:
    """The caller behind a token.

    Raises:
        ProblemError: 401 when it is missing, unknown or revoked, 403 when it lacks the scope.
    """
    if token is None:
        raise _unauthorized("the request carries no API key")
    # One statement, so no transaction around it: two round trips fewer on every request.
    with api.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = keys.verify(connection, token)
    if key is None:
        raise _unauthorized("the API key is unknown or revoked")
    if not any(keys.allows(key, scope) for scope in scopes):
        raise ProblemError(
            403,
            f"the key {key.prefix} has the scopes {list(key.scopes)}, and none of {list(scopes)}",
            remedy="ask an admin of the project for a key with the scope",
        )
    return Caller(key)


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(
        401,
        detail,
        headers={"WWW-Authenticate": "Bearer"},
        remedy="send the header Authorization: Bearer pm_<prefix>_<secret>",
    )


Reader = Annotated[Caller, Depends(requires("read", "publish"))]
Publishing = Annotated[Caller, Depends(requires("publish"))]
Ingesting = Annotated[Caller, Depends(requires("ingest"))]
Uploading = Annotated[Caller, Depends(requires("edge", "ingest"))]
Edge = Annotated[Caller, Depends(requires("edge"))]
Admin = Annotated[Caller, Depends(requires("admin"))]
