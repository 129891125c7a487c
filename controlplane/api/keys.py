"""API keys: made, listed, revoked. A token is shown once."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path

from controlplane import keys
from controlplane.api.answers import KeyAnswer, KeysAnswer, NewKeyAnswer
from controlplane.api.auth import Admin
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import KeyBody
from storage import projects

router = APIRouter(prefix="/v1/keys", tags=["keys"])

MAX_LISTED = 1_000


@router.get("")
def list_keys(caller: Admin, api: Api) -> KeysAnswer:
    """The project's keys, revoked ones too, oldest first."""
    with api.engine.connect() as connection:
        rows = projects.list_keys(connection, caller.project_id, MAX_LISTED)
    return KeysAnswer(items=[KeyAnswer.model_validate(row) for row in rows])


@router.post("", status_code=201)
def make_key(body: KeyBody, caller: Admin, api: Api, key: IdempotencyKey = None) -> NewKeyAnswer:
    """Make a key. Only its hash is kept, so a repeated request is answered without the token."""
    at = now()
    token: str | None = None
    with api.engine.begin() as connection:

        def act() -> dict[str, Any]:
            nonlocal token
            minted = keys.mint(
                connection, caller.project_id, name=body.name, scopes=body.scopes, now=at
            )
            token = minted.token
            return KeyAnswer.model_validate(minted.key).model_dump(mode="json")

        request = {"route": "keys", **body.model_dump()}
        answer, _ = once(connection, caller, key, request, act, now=at)
    return NewKeyAnswer(**answer, token=token)


@router.delete("/{key_id}", status_code=204)
def revoke_key(key_id: Annotated[UUID, Path()], caller: Admin, api: Api) -> None:
    """Revoke a key, at once and for good."""
    with api.engine.begin() as connection:
        keys.revoke(connection, caller.project_id, key_id, now())
