from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from controlplane import keys
from controlplane.errors import InvalidError, NotFoundError
from storage import projects

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def project(connection: sa.Connection, name: str = "p") -> UUID:
    return projects.ensure_project(connection, uuid4(), name, NOW)


def test_a_minted_key_is_verified_and_only_its_hash_is_stored(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        minted = keys.mint(connection, project(connection), name="app", scopes=["ingest"], now=NOW)
        found = keys.verify(connection, minted.token)
        row = connection.execute(sa.text("SELECT * FROM api_keys")).one()
    assert found == minted.key
    secret = minted.token.split("_", 2)[2]
    assert len(secret) >= 43
    assert secret not in str(tuple(row))
    assert secret.encode() not in bytes(row.secret_hash)


def test_a_token_with_any_other_character_is_not_verified(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        token = keys.mint(
            connection, project(connection), name="app", scopes=["read"], now=NOW
        ).token
        for altered in (token[:-1], token + "A", token.replace("pm_", "PM_"), token.upper(), ""):
            assert keys.verify(connection, altered) is None


def test_admin_stands_for_every_scope_and_no_other_scope_does(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        owner = project(connection)
        for mine in keys.SCOPES:
            key = keys.mint(connection, owner, name=mine, scopes=[mine], now=NOW).key
            allowed = {scope for scope in keys.SCOPES if keys.allows(key, scope)}
            assert allowed == (set(keys.SCOPES) if mine == "admin" else {mine})


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", ""]])
def test_unknown_scopes_are_refused(engine: sa.Engine, scopes: list[str]) -> None:
    with engine.begin() as connection, pytest.raises(InvalidError, match="scopes") as raised:
        keys.mint(connection, project(connection), name="x", scopes=scopes, now=NOW)
    assert raised.value.field == "scopes"


def test_a_revoked_key_is_not_verified_and_makes_room_for_another(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        owner = project(connection)
        minted = [
            keys.mint(connection, owner, name="x", scopes=["read"], now=NOW)
            for _ in range(keys.MAX_KEYS)
        ]
        with pytest.raises(InvalidError, match="revoke one"):
            keys.mint(connection, owner, name="x", scopes=["read"], now=NOW)
        keys.revoke(connection, owner, minted[0].key.id, NOW)
        assert keys.verify(connection, minted[0].token) is None
        keys.mint(connection, owner, name="x", scopes=["read"], now=NOW)


def test_a_project_revokes_only_its_own_keys(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        minted = keys.mint(connection, project(connection), name="x", scopes=["read"], now=NOW)
        with pytest.raises(NotFoundError):
            keys.revoke(connection, project(connection, "other"), minted.key.id, NOW)
        assert keys.verify(connection, minted.token) is not None


def test_the_first_admin_is_made_once_and_again_when_all_are_revoked(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        first = keys.first_admin(connection, NOW)
        assert first is not None
        assert keys.first_admin(connection, NOW) is None
        keys.revoke(connection, first.key.project_id, first.key.id, NOW)
        assert keys.first_admin(connection, NOW) is not None


def test_a_long_past_of_revoked_keys_hides_no_standing_one(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        owner = project(connection, keys.DEFAULT_PROJECT)
        connection.execute(
            sa.text(
                "INSERT INTO api_keys SELECT gen_random_uuid(), :owner, 'old', n::text, '', "
                "ARRAY['read'], :now, :now FROM generate_series(1, 1200) n"
            ),
            {"owner": owner, "now": NOW},
        )
        # UUIDv7 keys sort behind all of those whose first digit is 0.
        connection.exec_driver_sql(
            "UPDATE api_keys SET id = overlay(id::text placing '0000' from 1 for 4)::uuid"
        )
        first = keys.first_admin(connection, NOW)
        assert first is not None
        assert keys.first_admin(connection, NOW) is None
        for _ in range(keys.MAX_KEYS - 1):
            keys.mint(connection, owner, name="x", scopes=["read"], now=NOW)
        with pytest.raises(InvalidError, match="revoke one"):
            keys.mint(connection, owner, name="x", scopes=["read"], now=NOW)
        listed = projects.list_keys(connection, owner, 110)
    assert sum(key.revoked_at is None for key in listed) == keys.MAX_KEYS
    assert len(listed) == 110
