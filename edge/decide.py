"""``POST /v1/decide``: a choice for an application that makes the call itself."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from edge.arriving import arrived_at
from edge.errors import ProblemError, invalid, not_json
from edge.heads import held, permitted
from edge.ledger import Answered, Ledger, check_id, reward_deadline
from edge.metrics import Metrics
from edge.policies import Policies
from edge.preference import MAX_NAME as MAX_PART_NAME
from edge.preference import MAX_PARTS
from edge.reading import Reader
from edge.router import Decision, NoArmError, decide, eligible_arms
from learners.bundle import Bundle
from learners.errors import LearnersError
from learners.ids import parse, time_of
from learners.preferences import MAX_FACTOR, in_context
from learners.records import MAX_NAME, Context, ContextValue

MAX_DECIDE_BYTES = 1024 * 1024
MAX_CONTEXT_BYTES = 256 * 1024
MAX_FEATURES = 256
MAX_TEXT = 1024
MAX_ACTIONS = 1024
NUL = "\x00"  # which no table of the control plane holds
AHEAD = timedelta(hours=1)
"""How far the clock of who makes a decision's id may run ahead, as the control plane allows."""
_AT = re.compile(r"at `\$\.?([^`]*)`")
_FIELD = re.compile(r"field `([^`]*)`")


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request."""

    policy: str
    context: dict[str, Any] | None = None
    input: str | list[Any] | None = None
    preference: dict[str, float] | None = None
    actions: list[str] | None = None
    excluded_actions: list[str] = []
    session_id: str | None = None
    user_id: str | None = None
    episode_id: str | None = None
    decision_id: str | None = None
    defer_activation: bool = False


class Decider:
    """The two endpoints of a choice."""

    def __init__(
        self,
        policies: Policies,
        ledger: Ledger,
        metrics: Metrics,
        reader: Reader,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[datetime], str],
    ) -> None:
        """``now`` and ``new_id`` are the clock and the source of decision ids."""
        self._reader = reader
        self._policies = policies
        self._ledger = ledger
        self._metrics = metrics
        self._now = now
        self._new_id = new_id

    async def decide(self, request: web.Request) -> web.Response:
        """Answer with a choice, and log it unless it is deferred."""
        asked = read_asked(await request.read())
        seen = _seen(asked)
        answer = self._recall(asked, seen)
        if answer is None:
            bundle = self._policies.bundle(asked.policy)
            context = await self._reader.read(
                bundle,
                messages_of(asked),
                read_context(asked),
                started=arrived_at(request),
            )
            # Another request may have made the same decision while this one was read.
            answer = self._recall(asked, seen) or self._choose(asked, seen, bundle, context)
        return web.Response(body=answer, content_type="application/json")

    def _recall(self, asked: Asked, seen: bytes) -> bytes | None:
        if asked.decision_id is None:
            return None
        return self._ledger.recall(asked.decision_id, seen)

    def _choose(self, asked: Asked, seen: bytes, bundle: Bundle, context: Context) -> bytes:
        now = self._now()
        _check_time(asked.decision_id, now)
        guards = held(bundle, context)
        names = eligible_arms(bundle, actions=asked.actions, excluded=asked.excluded_actions)
        try:
            decision = decide(
                bundle,
                context,
                decision_id=asked.decision_id or self._new_id(now),
                at=now,
                eligible=permitted(bundle, guards, names),
                session_id=asked.session_id,
                episode_id=asked.episode_id,
                user=asked.user_id,
            )
        except LearnersError as error:
            raise _bad_context(error) from error
        except NoArmError as error:
            raise invalid("actions", asked.actions, str(error)) from error
        self._metrics.count_asked(bundle, decision)
        self._metrics.count_guarded(bundle.policy, guards)
        if asked.defer_activation:
            self._ledger.defer(decision)
        else:
            self._ledger.record(decision)
        answer = msgspec.json.encode(_answer(decision, bundle))
        self._ledger.remember(decision.decision_id, Answered(seen, answer))
        return answer

    async def activate(self, request: web.Request) -> web.Response:
        """Log a deferred decision."""
        self._ledger.activate(request.match_info["decision_id"].lower())
        return web.Response(status=204)


def read_asked(body: bytes) -> Asked:
    """The request that the body holds.

    Raises:
        ProblemError: It is no JSON (400) or a field is missing, unknown or wrong (422).
    """
    if len(body) > MAX_DECIDE_BYTES:
        raise ProblemError(
            413, "body_too_large", f"the body has {len(body)} bytes: at most {MAX_DECIDE_BYTES}"
        )
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise not_json(error) from error
    try:
        asked = msgspec.convert(raw, Asked)
    except msgspec.ValidationError as error:
        raise _explained(raw, str(error)) from error
    return _checked(asked)


def _explained(raw: object, message: str) -> ProblemError:
    """Name the field, which the message of msgspec holds in its path."""
    path = _AT.search(message)
    field = _FIELD.search(message)
    name = ".".join(m.group(1) for m in (path, field) if m and m.group(1)) or "body"
    top = name.split(".", 1)[0].split("[", 1)[0]
    value = raw.get(top) if isinstance(raw, Mapping) else raw
    known = ", ".join(Asked.__struct_fields__)
    return invalid(name, value, f"{message}; fields are {known}")


def _checked(asked: Asked) -> Asked:
    if asked.context is None and asked.input is None:
        raise invalid("context", None, "give context (features) or input (text or messages)")
    check_id("session_id", asked.session_id)
    check_id("user_id", asked.user_id)
    check_id("episode_id", asked.episode_id)
    for field in ("actions", "excluded_actions"):
        if len(getattr(asked, field) or ()) > MAX_ACTIONS:
            raise invalid(field, len(getattr(asked, field)), f"name at most {MAX_ACTIONS}")
    if asked.decision_id is None:
        return asked
    try:
        # One spelling only, or a replay in capitals would be another draw.
        return msgspec.structs.replace(asked, decision_id=str(parse(asked.decision_id)))
    except LearnersError as error:
        raise invalid("decision_id", asked.decision_id, str(error)) from error


def _check_time(decision_id: str | None, now: datetime) -> None:
    if decision_id is None:
        return
    try:
        early = time_of(parse(decision_id)) <= now + AHEAD
    except LearnersError:  # past the year 9999
        early = False
    if not early:
        raise invalid("decision_id", decision_id, "make it with the time of now, as UUIDv7 asks")


def _seen(asked: Asked) -> bytes:
    """What tells one question from another, whatever the order of its keys."""
    try:
        return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).digest()
    except RecursionError as error:  # read, but by a hair
        raise not_json(error) from error


def read_context(asked: Asked) -> Context:
    """The features that the application gave.

    Raises:
        ProblemError: A feature is none that a context may hold (422).
    """
    found: dict[str, ContextValue] = {}
    given = asked.context or {}
    if len(given) > MAX_FEATURES:
        raise invalid("context", f"{len(given)} features", f"give at most {MAX_FEATURES}")
    for name, value in given.items():
        if value is not None:
            found[name] = _value(name, value)
    found.update(_preference(asked.preference or {}))
    if len(msgspec.json.encode(given)) > MAX_CONTEXT_BYTES:
        raise invalid("context", f"{len(given)} features", f"at most {MAX_CONTEXT_BYTES} bytes")
    return found


def messages_of(asked: Asked) -> Sequence[object] | None:
    """The messages whose signals are to be read; None where there are none."""
    if isinstance(asked.input, str):
        return [{"role": "user", "content": asked.input}]
    return asked.input


def _preference(asked: Mapping[str, float]) -> dict[str, float]:
    if len(asked) > MAX_PARTS:
        raise invalid("preference", f"{len(asked)} parts", f"name at most {MAX_PARTS}")
    for name, factor in asked.items():
        if not (0 < len(name) <= MAX_PART_NAME and NUL not in name and 0 <= factor <= MAX_FACTOR):
            raise invalid(f"preference.{name}", factor, f"give a factor from 0 to {MAX_FACTOR:g}")
    return in_context(asked)


def _value(name: str, value: object) -> ContextValue:
    if not (0 < len(name) <= MAX_NAME and NUL not in name):
        raise invalid("context", name, f"feature names have 1 to {MAX_NAME} characters, no NUL")
    if isinstance(value, str) and len(value) <= MAX_TEXT and NUL not in value:
        return value
    if isinstance(value, bool) or _is_number(value):
        return value  # type: ignore[return-value]
    if isinstance(value, list) and all(map(_is_number, value)):
        return value
    raise invalid(
        f"context.{name}",
        value,
        f"give a number, a flag, a list of numbers, or up to {MAX_TEXT} characters without NUL",
    )


def _is_number(value: object) -> bool:
    # Beyond 2**63 an integer may have no float, and no column of a table holds it.
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _bad_context(error: LearnersError) -> ProblemError:
    field, _, rest = str(error).partition(" ")
    if not field.startswith("context."):  # its features fit, but not their sum
        return invalid("context", "out of range", str(error))
    return ProblemError(
        422,
        "invalid_field",
        str(error),
        field=field,
        value=rest.removeprefix("is ")[:200],
        remedy=rest.rpartition(": ")[2],
    )


def _answer(decision: Decision, bundle: Bundle) -> dict[str, Any]:
    return {
        "decision_id": decision.decision_id,
        "action": decision.action,
        "model": bundle.arms[bundle.index[decision.action]].model,
        "propensity": decision.propensity,
        "distribution": _pairs(decision.eligible, decision.distribution),
        "policy": {
            "name": decision.policy,
            "version": decision.version,
            "serial": decision.serial,
            "digest": decision.digest,
        },
        "mode": decision.mode,
        "split": decision.split,
        "variant": decision.variant,
        "reward_deadline": reward_deadline(decision, bundle.wait_s),
    }


def _pairs(names: Sequence[str], probabilities: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"action": name, "probability": p} for name, p in zip(names, probabilities, strict=True)
    ]
