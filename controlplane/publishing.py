"""Publish: seal a version for the arms as they are now, sign it, store it, announce it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane import overrides, scorers, served_heads
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import GateError, InvalidError, NotFoundError, StaleError
from controlplane.lineups import NOBODY, Cast, cast_of
from learners.bundle import Bundle, arm_from_json, seal
from learners.features import Feature, Schema
from learners.head_bank import NO_HEADS, Heads
from learners.lineup import Challenger, Dispatch, Golden, Lineup
from learners.records import Arm, Context, ContextValue
from learners.scorers.base import Scorer
from storage import policies, versions
from storage.versions import StoredBundle, StoredVersion

CHAMPION = "champion"
MONITOR = "monitor"
"""The verdict of a stage that sent its version back."""
LATE = "late"
"""The verdict of a stage whose time was over: it says nothing against its version."""
ROLLBACK = "rollback from version"
"""How the reason of a bundle begins that a rollback published."""
EVALUATION = "evaluation"
"""The gate of a verdict that somebody asked for: it lets nobody serve, and forbids nothing."""
GOLDEN_VECTORS = 8


@dataclass(frozen=True, slots=True)
class Publisher:
    """What publishing needs beside the database."""

    keys: tuple[Ed25519PrivateKey, ...]
    ttl: timedelta


def publish(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    number: int,
    *,
    reason: str,
    now: datetime,
) -> StoredBundle:
    """Make a version the champion, under the next serial.

    Raises:
        NotFoundError: There is no such version.
        InvalidError: The pool has no arm.
    """
    versions.lock_policy(connection, policy_id)
    version = versions.find_version(connection, policy_id, number)
    if version is None:
        raise NotFoundError(f"version {number} does not exist")
    before = versions.find_alias(connection, policy_id, CHAMPION)
    bundle = _store(connection, publisher, version, reason, now)
    if before is None or before[0] != number:
        if before is not None:
            versions.set_state(connection, policy_id, [before[0]], "retired")
        versions.set_state(connection, policy_id, [number], CHAMPION)
        versions.put_alias(connection, policy_id, CHAMPION, number, now)
    return bundle


def promote(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    number: int,
    *,
    revision: int,
    reason: str,
    now: datetime,
) -> StoredBundle:
    """Publish, if the champion has not been moved since the alias's ``revision`` was read.

    Raises:
        StaleError: It has.
    """
    versions.lock_policy(connection, policy_id)
    standing = versions.find_alias(connection, policy_id, CHAMPION)
    if standing is not None and standing[1] != revision:
        raise StaleError(
            f"the champion was moved meanwhile: its revision is {standing[1]}, not {revision}; "
            "read it again"
        )
    return publish(connection, publisher, policy_id, number, reason=reason, now=now)


def admit(
    connection: sa.Connection, policy_id: UUID, number: int, *, now: datetime | None = None
) -> None:
    """Let a version serve: its newest verdict has passed, or it has served and no monitor objected.

    Raises:
        InvalidError: There is no such version.
        GateError: With the failed checks; none where nothing was judged.
        ConflictError: The policy is frozen ``now``, if that is given.
    """
    if versions.find_version(connection, policy_id, number) is None:
        raise InvalidError("version", f"version {number} does not exist")
    said = versions.list_verdicts(connection, policy_id, version=number)
    verdicts = [one for one in said if one.gate not in {LATE, EVALUATION}]
    objected = any(one.gate == MONITOR for one in verdicts[:1])
    history = versions.service_history(connection, policy_id)
    if not objected and number in [version for version, _ in history]:
        return
    if now is not None:
        overrides.refuse_frozen(connection, policy_id, now)
    if not verdicts:
        raise GateError(f"version {number} has no verdict yet", [])
    if not verdicts[0].passed:
        failed = [check for check in verdicts[0].checks if not check["passed"]]
        raise GateError(f"version {number} may not serve: {verdicts[0].summary}", failed)
    champion = versions.find_alias(connection, policy_id, CHAMPION)
    judged = verdicts[0].numbers.get("champion_version")
    if champion is not None and judged != champion[0]:
        raise GateError(
            f"version {number} was compared with version {judged}, and version {champion[0]} "
            "serves now: wait for the next round, or ask for one",
            [],
        )


def check_evaluation(
    connection: sa.Connection, policy_id: UUID, number: int, identifier: UUID | None
) -> None:
    """Let nothing rest on an evaluation of something else.

    Raises:
        InvalidError: It is no verdict on this version.
    """
    if identifier is None or versions.has_verdict(connection, policy_id, number, identifier):
        return
    raise InvalidError(
        "evaluation_id",
        f"evaluation_id {identifier} is no evaluation of version {number}: leave it out, or give "
        "the id of one of its verdicts",
    )


def republish(
    connection: sa.Connection, publisher: Publisher, policy_id: UUID, *, reason: str, now: datetime
) -> StoredBundle | None:
    """Seal the champion anew: the arms have changed, or the bundle is getting old."""
    versions.lock_policy(connection, policy_id)
    champion = versions.find_alias(connection, policy_id, CHAMPION)
    if champion is None:
        return None
    return publish(connection, publisher, policy_id, champion[0], reason=reason, now=now)


def rollback(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    *,
    now: datetime,
    why: str = "",
) -> StoredBundle:
    """Publish the version that served before the champion, under a new, higher serial.

    It holds: what was rolled back from would win the next round by the same log, so the policy
    stops promoting by itself until somebody switches that on again.

    Raises:
        NotFoundError: No other version has served.
    """
    versions.lock_policy(connection, policy_id)
    champion = versions.find_alias(connection, policy_id, CHAMPION)
    current = champion[0] if champion else 0
    earlier = predecessor(versions.service_history(connection, policy_id))
    if earlier is None:
        raise NotFoundError("no other version has served: there is nothing to roll back to")
    policies.stop_promoting(connection, policy_id, now)
    reason = f"{ROLLBACK} {current}{why and ': '}{why}"
    return publish(connection, publisher, policy_id, earlier, reason=reason, now=now)


def predecessor(history: Sequence[tuple[int, str]]) -> int | None:
    """Whom the last version of a history (versions, each with why) displaced.

    A rollback drops what it goes back over, so rollbacks in a row walk further back, and a
    version that was rolled back from is never rolled back to. A version that is promoted again
    has displaced the one before it, as any other.
    """
    line: list[int] = []
    for version, reason in history:
        if reason.startswith(ROLLBACK) and version in line:
            del line[len(line) - line[::-1].index(version) :]
        elif not line or line[-1] != version:
            line.append(version)
    return line[-2] if len(line) > 1 else None


def _store(
    connection: sa.Connection,
    publisher: Publisher,
    version: StoredVersion,
    reason: str,
    now: datetime,
) -> StoredBundle:
    policy = policies.get_policy(connection, version.policy_id)
    arms = [arm_from_json(row) for row in policies.list_arms(connection, policy.pool_id)]
    if not arms:
        raise InvalidError("pool", f"pool {policy.pool!r} has no arm: add one, then publish")
    config = overrides.explored(connection, policy.id, read_config(policy.config), now)
    cast = cast_of(connection, version.policy_id, version.number)
    found = [versions.find_version(connection, version.policy_id, n) for n in cast.versions]
    bundle = assemble(
        version,
        arms,
        config,
        challengers=[one for one in found if one is not None],
        cast=cast,
        policy=policy.name,
        wait_s=policy.wait_s,
        serial=versions.next_serial(connection, version.policy_id),
        issued_at=now,
        expires_at=now + publisher.ttl,
        heads=served_heads.of_policy(connection, policy.id, config),
    )
    stored = StoredBundle(
        policy_id=version.policy_id,
        serial=bundle.serial,
        version=version.number,
        digest=bundle.digest,
        body=seal(bundle, publisher.keys),
        reason=reason,
        issued_at=bundle.issued_at,
        expires_at=bundle.expires_at,
    )
    versions.add_bundle(connection, stored)
    return stored


def assemble(
    version: StoredVersion,
    arms: Sequence[Arm],
    config: PolicyConfig,
    *,
    policy: str,
    wait_s: float,
    serial: int,
    issued_at: datetime,
    expires_at: datetime,
    challengers: Sequence[StoredVersion] = (),
    cast: Cast = NOBODY,
    heads: Heads = NO_HEADS,
) -> Bundle:
    """The bundle of a version for these arms, with golden vectors; not signed yet.

    ``challengers`` are the versions that the ``cast`` names.
    """
    scorer = _served(version, arms, config)
    schema = scorers.schema_of(version)
    bundle = Bundle(
        policy=policy,
        version=version.number,
        serial=serial,
        issued_at=issued_at,
        expires_at=expires_at,
        arms=tuple(arms),
        schema=schema,
        scorer=scorer,
        fallback_arm=_fallback(scorer, schema, arms, config.fallback_arm),
        learner=version.learner,
        wait_s=wait_s,
        lineup=Lineup(
            tuple(_challenger(one, arms, config) for one in challengers),
            cast.splits,
            cast.shadows,
            _dispatch(cast, config),
        ),
        heads=heads,
    )
    others = tuple(
        replace(one, golden=_golden_of(bundle, one)) for one in bundle.lineup.challengers
    )
    lineup = replace(bundle.lineup, challengers=others)
    return replace(bundle, golden=_golden_of(bundle, bundle), lineup=lineup)


def _served(version: StoredVersion, arms: Sequence[Arm], config: PolicyConfig) -> Scorer:
    return scorers.load(version).over([arm.name for arm in arms]).floored(config.floor)


def _dispatch(cast: Cast, config: PolicyConfig) -> Dispatch | None:
    """What the policy asks for, where there is a shadow whose arms can be asked."""
    asked = config.shadow_dispatch
    if not cast.shadows or asked.share == 0:
        return None
    return Dispatch(asked.share, asked.usd_per_hour, asked.max_in_flight)


def _challenger(version: StoredVersion, arms: Sequence[Arm], config: PolicyConfig) -> Challenger:
    return Challenger(
        version=version.number,
        learner=version.learner,
        schema=scorers.schema_of(version),
        scorer=_served(version, arms, config),
    )


def _golden_of(bundle: Bundle, own: Bundle | Challenger) -> tuple[Golden, ...]:
    return tuple(
        _golden(bundle, own.version, context, number)
        for number, context in enumerate(_contexts(own.schema, GOLDEN_VECTORS))
    )


def _golden(bundle: Bundle, version: int, context: Context, number: int) -> Golden:
    """Every other vector leaves one arm out, so that eligibility is tested too."""
    names = [arm.name for arm in bundle.arms]
    if number % 2 and len(names) > 1:
        del names[number % len(names)]
    found = bundle.distribution(context, names, version=version)
    return Golden(context, tuple(names), tuple(float(p) for p in found))


def _contexts(schema: Schema, count: int) -> list[Context]:
    """Contexts that a schema's own numbers decide: the same for every publication."""
    random = np.random.default_rng(0)
    return [
        {feature.name: _value(feature, random, number) for feature in schema.features}
        for number in range(count)
    ]


def _value(feature: Feature, random: np.random.Generator, number: int) -> ContextValue:
    match feature.kind:
        case "category":
            return feature.values[number % len(feature.values)] if feature.values else "none"
        case "flag":
            return number % 3 == 0
        case "vector":
            vector = random.normal(size=feature.size)
            return [float(v) for v in vector / np.linalg.norm(vector)]
        case _:
            return float(feature.mean + feature.scale * random.normal())


def _fallback(scorer: Scorer, schema: Schema, arms: Sequence[Arm], wanted: str | None) -> str:
    """The configured arm; else the best on average, the cheapest first where scores tie."""
    names = [arm.name for arm in arms]
    if wanted in names:
        return str(wanted)
    x = schema.encode_all(_contexts(schema, 64))
    mean = scorer.greedy().scores(x).mean(axis=0)
    price = [arm.card.usd_per_mtok_in + arm.card.usd_per_mtok_out for arm in arms]
    best = min(range(len(names)), key=lambda i: (-round(float(mean[i]), 9), price[i], names[i]))
    return names[best]
