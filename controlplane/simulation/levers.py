"""Levers: what is changed of a pool's arms by hand while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from controlplane.simulation.contract import EVERY_DOMAIN, AnyWorld, Drift, WorldError

MAX_BODY = 64 * 1024
FIELDS = ("skill_shift", "failure_rate", "latency_factor")


@dataclass(slots=True)
class Levers:
    """At most one standing change for each arm; it wins over the drifts of the world."""

    _pulled: dict[str, Drift] = field(default_factory=dict)
    _applied: tuple[AnyWorld, AnyWorld] | None = None

    def pull(self, world: AnyWorld, arm: str, body: bytes) -> None:
        """Merge a JSON object of :data:`FIELDS` into what stands; null puts a lever back.

        Raises:
            WorldError: The body is not such an object; nothing has changed then.
        """
        before = self._pulled.get(arm) or Drift(arm, at_request=0)
        drift = replace(before, **_fields(body))
        pulled = {**self._pulled, arm: drift}
        changed = world.with_drifts((*world.drifts, *pulled.values()))
        self._pulled, self._applied = pulled, (world, changed)

    def applied(self, world: AnyWorld) -> AnyWorld:
        """The world as the levers have changed it."""
        if self._applied is None or self._applied[0] is not world:
            changed = world.with_drifts((*world.drifts, *self._pulled.values()))
            self._applied = (world, changed)
        return self._applied[1]

    def show(self, arm: str) -> dict[str, Any]:
        """How the levers of an arm stand."""
        drift = self._pulled.get(arm) or Drift(arm, at_request=0)
        return {name: getattr(drift, name) for name in FIELDS}


def drifts_of(text: bytes) -> tuple[Drift, ...]:
    """Read a JSON list of drifts: ``[{"arm": …, "at_s": …, "failure_rate": …}, …]``.

    Raises:
        WorldError: It is none, naming the first bad entry.
    """
    rows = _decode(text)
    if not isinstance(rows, list):
        raise WorldError("drifts are not a JSON list: give [{arm, at_s or at_request, …}, …]")
    return tuple(_drift(row, i) for i, row in enumerate(rows))


def _drift(row: object, i: int) -> Drift:
    if not isinstance(row, dict) or not isinstance(row.get("arm"), str):
        raise WorldError(f"drifts[{i}] is not an object that names its arm")
    starts = {name: row[name] for name in ("at_request", "at_s") if name in row}
    for name, start in starts.items():
        _check_number(f"drifts[{i}].{name}", start)
    rest = {name: value for name, value in row.items() if name not in {"arm", *starts}}
    return Drift(row["arm"], **starts, **_checked(rest))


def _fields(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise WorldError(f"the body has {len(body)} bytes: give at most {MAX_BODY}")
    row = _decode(body)
    if not isinstance(row, dict):
        raise WorldError(f"the body is not a JSON object: give some of {list(FIELDS)}")
    return _checked(row)


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Known fields with numbers; whether they are in range is for the drift itself to say."""
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise WorldError(f"no lever {unknown[0][:100]!r}: there are {list(FIELDS)}")
    found = dict(row)
    if "skill_shift" in found:
        found["skill_shift"] = _shift(found["skill_shift"])
    for name in ("failure_rate", "latency_factor"):
        if found.get(name) is not None:
            _check_number(name, found[name])
    return found


def _shift(value: object) -> dict[str, Any]:
    """A shift by domain; a plain number is one for all domains."""
    shift = value if isinstance(value, dict) else {} if value is None else {EVERY_DOMAIN: value}
    for domain, number in shift.items():
        _check_number(f"skill_shift in {domain[:100]}", number)
    return shift


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WorldError(f"{name} is {value!r:.100}: give a number")


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WorldError(f"not JSON: {error}") from error
