"""The bundle: the one signed file that an edge pulls, and all that it needs to route.

Layout, all integers big-endian::

    b"PMBUNDL1" | u32 manifest length | manifest | u32 signatures length | signatures | tensors

The manifest is canonical JSON and holds the SHA-256 of the tensors (safetensors), so a signature
over the manifest covers everything. Signatures are JSON: ``[{key_id, signature}]``, Ed25519.
"""

import base64
import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from learners.errors import BundleError, LearnersError, MiscomputedError, SpecError
from learners.features import Schema, canonical_json
from learners.head_bank import NO_HEADS, Heads
from learners.lineup import ALONE, Challenger, Golden, Lineup
from learners.preferences import mixes
from learners.records import Arm, Card, Context
from learners.scorers import base
from learners.scorers.base import Scorer

MAGIC = b"PMBUNDL1"
FORMAT = 1
MAX_BUNDLE_BYTES = 64 * 2**20
MAX_MANIFEST_BYTES = 8 * 2**20
MAX_SIGNATURES = 32
MAX_SIGNATURES_BYTES = 16 * 2**10
GOLDEN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Bundle:
    """A policy version, ready to route.

    ``arms`` stand in the scorer's order; ``serial`` only ever rises; ``wait_s`` is how long after
    a decision its reward is settled.
    """

    policy: str
    version: int
    serial: int
    issued_at: datetime
    expires_at: datetime
    arms: tuple[Arm, ...]
    schema: Schema
    scorer: Scorer
    fallback_arm: str
    learner: str
    wait_s: float
    golden: tuple[Golden, ...] = ()
    lineup: Lineup = ALONE
    heads: Heads = NO_HEADS

    def __post_init__(self) -> None:
        """Refuse arms that do not fit the scorer, a fallback that is no arm, and naive times."""
        for name in ("issued_at", "expires_at"):
            if getattr(self, name).tzinfo is None:
                raise BundleError(f"{name}={getattr(self, name)} has no time zone")
        names = tuple(arm.name for arm in self.arms)
        if names != self.scorer.arms:
            raise BundleError(f"arms {list(names)} are not the scorer's {list(self.scorer.arms)}")
        if self.fallback_arm not in names:
            raise BundleError(f"fallback arm {self.fallback_arm!r} is not among {list(names)}")
        if self.scorer.dimension != self.schema.dimension:
            raise BundleError(
                f"the scorer takes {self.scorer.dimension} columns, "
                f"the schema gives {self.schema.dimension}"
            )
        for one in self.lineup.challengers:
            if one.scorer.arms != names or one.version == self.version:
                raise BundleError(
                    f"challenger {one.version} has arms {list(one.scorer.arms)}: it must be "
                    f"another version than {self.version}, over {list(names)}"
                )

    @cached_property
    def challengers(self) -> dict[int, Challenger]:
        """Version → challenger."""
        return {one.version: one for one in self.lineup.challengers}

    @cached_property
    def index(self) -> dict[str, int]:
        """Arm name → column."""
        return {arm.name: i for i, arm in enumerate(self.arms)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest: names this bundle's content exactly."""
        return hashlib.sha256(canonical_json(self._manifest())).hexdigest()

    def distribution(
        self, context: Context, eligible: Sequence[str], *, version: int | None = None
    ) -> NDArray[np.float64]:
        """Probabilities of shape ``(K,)`` for one context, by the champion or by a challenger.

        Raises:
            ContextError: The context does not fit the schema, or its preference the reward.
            SpecError: No arm is eligible, or one is unknown.
        """
        return Reading(self, context, eligible).distribution(version)

    def self_test(self) -> None:
        """Reproduce the golden vectors.

        Raises:
            BundleError: A probability, of an arm or of a head's class, differs by more than 1e-6.
        """
        every: tuple[Bundle | Challenger, ...] = (self, *self.lineup.challengers)
        for own in every:
            for number, golden in enumerate(own.golden):
                gap = self._golden_gap(golden, own.version)
                if not gap <= GOLDEN_TOLERANCE:
                    raise MiscomputedError(
                        f"{self.policy}@{own.version} serial {self.serial}: golden vector {number} "
                        f"is off by {gap:.3g}: this edge computes other probabilities than the "
                        "control plane, do not serve it"
                    )
        name, gap = self.heads.worst()
        if not gap <= GOLDEN_TOLERANCE:
            raise MiscomputedError(
                f"{self.policy}@{self.version} serial {self.serial}: head {name!r} is off by "
                f"{gap:.3g} on its golden vectors: do not serve it"
            )

    def _golden_gap(self, golden: Golden, version: int) -> float:
        """Largest difference in probability; infinite where there is nothing to compare."""
        try:
            found = self.distribution(golden.context, golden.eligible, version=version)
            return float(np.abs(found - np.asarray(golden.probabilities)).max())
        except ValueError:  # a context, an arm or a length that does not fit
            return math.inf

    def _manifest(self) -> dict[str, Any]:
        return {
            **self._fields(),
            "tensors_sha256": hashlib.sha256(_tensors(self)).hexdigest(),
        }

    def _fields(self) -> dict[str, Any]:
        """The manifest but for the tensors' digest."""
        return {
            "format": FORMAT,
            "policy": self.policy,
            "version": self.version,
            "serial": self.serial,
            "issued_at": self.issued_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "arms": [arm_as_json(arm) for arm in self.arms],
            "features": self.schema.as_json(),
            "feature_schema_digest": self.schema.digest,
            "fallback_arm": self.fallback_arm,
            "learner": self.learner,
            "wait_s": self.wait_s,
            "scorer": self.scorer.as_json(),
            "golden": [golden.as_json() for golden in self.golden],
            # Left out where the champion is alone: edges that do not know it take the rest.
            **({} if self.lineup.empty else {"lineup": self.lineup.as_json()}),
            **({} if self.heads.empty else {"heads": self.heads.as_json()}),
        }


class Reading:
    """One context before a bundle's versions: encoded once for each schema that they share."""

    __slots__ = ("_bundle", "_context", "_encoded", "_mask")

    def __init__(self, bundle: Bundle, context: Context, eligible: Sequence[str]) -> None:
        """Nothing is encoded before a version asks for it.

        Raises:
            SpecError: An arm is unknown.
        """
        self._bundle = bundle
        self._context = context
        self._encoded: dict[str, NDArray[np.float64]] = {}
        self._mask = np.zeros((1, len(bundle.arms)), dtype=np.bool_)
        try:
            self._mask[0, [bundle.index[name] for name in eligible]] = True
        except KeyError as error:
            raise SpecError(f"no arm {error}: there are {list(bundle.index)}") from error

    def distribution(self, version: int | None = None) -> NDArray[np.float64]:
        """Probabilities of shape ``(K,)``, by the champion or by a challenger.

        Raises:
            ContextError: The context does not fit the schema, or its preference the reward.
            SpecError: No arm is eligible.
        """
        bundle = self._bundle
        own = bundle if version in (None, bundle.version) else bundle.challengers[version]
        x = self._encoded.get(own.schema.digest)
        if x is None:
            x = self._encoded[own.schema.digest] = own.schema.encode(self._context)[None]
        mix = mixes((self._context,), own.scorer, strict=True)
        found: NDArray[np.float64] = own.scorer.distribution(x, self._mask, mix)[0]
        return found


def key_id(key: Ed25519PublicKey) -> str:
    """Short name of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def seal(bundle: Bundle, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Write and sign a bundle; the same bundle and keys give the same bytes.

    Raises:
        BundleError: It has become larger than any edge takes, or has too many signatures.
    """
    if len(keys) > MAX_SIGNATURES:
        raise BundleError(f"{len(keys)} keys: at most {MAX_SIGNATURES} may sign a bundle")
    manifest = canonical_json(bundle._manifest())  # noqa: SLF001 — seal is the bundle's own writer
    signatures = canonical_json(
        [
            {
                "key_id": key_id(key.public_key()),
                "signature": base64.b64encode(key.sign(MAGIC + manifest)).decode(),
            }
            for key in keys
        ]
    )
    head = MAGIC + struct.pack(">I", len(manifest)) + manifest
    data = head + struct.pack(">I", len(signatures)) + signatures + _tensors(bundle)
    if len(data) > MAX_BUNDLE_BYTES or len(manifest) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"the bundle has {len(data)} bytes, its manifest {len(manifest)}: at most "
            f"{MAX_BUNDLE_BYTES} and {MAX_MANIFEST_BYTES}; use fewer columns or arms"
        )
    return data


def unseal(data: bytes, trusted: Sequence[Ed25519PublicKey], *, threshold: int = 1) -> Bundle:
    """Read a bundle and believe it only when enough trusted keys signed it.

    Expiry and rising serials are the caller's: they need a clock and a memory.

    Raises:
        BundleError: It is too large, damaged, of another format, says more than this edge
            understands, or is not signed by ``threshold`` of the trusted keys.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"the bundle has {len(data)} bytes: at most {MAX_BUNDLE_BYTES}")
    if not data.startswith(MAGIC):
        raise BundleError("this is not a bundle: it does not begin with PMBUNDL1")
    manifest, rest = _block(data, len(MAGIC), "manifest", MAX_MANIFEST_BYTES)
    signatures, rest = _block(data, rest, "signatures", MAX_SIGNATURES_BYTES)
    _verify(manifest, signatures, trusted, threshold)
    tensors = data[rest:]
    try:
        row = json.loads(manifest)
        if row["format"] != FORMAT:
            raise BundleError(f"bundle format {row['format']} is not {FORMAT}: upgrade the edge")
        if hashlib.sha256(tensors).hexdigest() != row["tensors_sha256"]:
            raise BundleError("the tensors do not match the signed manifest: download again")
        bundle = _read(row, safetensors.numpy.load(tensors))
        if row["feature_schema_digest"] != bundle.schema.digest:
            raise BundleError("the features are read otherwise than they were written")
        _check_known(row, {**bundle._fields(), "tensors_sha256": ""})
        return bundle  # noqa: TRY300 — an else block would hide what is believed last
    except BundleError:
        raise
    except (
        LearnersError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        safetensors.SafetensorError,
    ) as error:
        raise BundleError(f"the bundle's manifest cannot be read: {error!r}") from error


def _check_known(given: object, known: object, path: str = "") -> None:
    """Refuse names that were not read: a guard that is passed over would not guard."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for name, value in given.items():
            if name not in known:
                raise BundleError(f"the manifest's {path}{name} is not known: upgrade the edge")
            _check_known(value, known[name], f"{path}{name}.")
    elif isinstance(given, list) and isinstance(known, list):
        for one, other in zip(given, known, strict=False):
            _check_known(one, other, path)


def _block(data: bytes, at: int, name: str, limit: int) -> tuple[bytes, int]:
    if len(data) < at + 4:
        raise BundleError(f"the bundle ends before its {name}: download again")
    (length,) = struct.unpack_from(">I", data, at)
    if length > limit or len(data) < at + 4 + length:
        raise BundleError(f"the bundle's {name} is cut short or too long: download again")
    return data[at + 4 : at + 4 + length], at + 4 + length


def _verify(
    manifest: bytes, signatures: bytes, trusted: Sequence[Ed25519PublicKey], threshold: int
) -> None:
    keys = {key_id(key): key for key in trusted}
    good: set[str] = set()
    for name, signature in _signatures(signatures):
        if name not in keys:
            continue
        try:
            keys[name].verify(signature, MAGIC + manifest)
        except InvalidSignature:
            continue
        good.add(name)
    if len(good) < max(1, threshold):
        raise BundleError(
            f"{len(good)} of the trusted keys {sorted(keys)} signed the bundle, "
            f"{threshold} must: it was altered, or the edge trusts other keys"
        )


def _signatures(data: bytes) -> list[tuple[str, bytes]]:
    """Pairs of key id and signature; nobody has vouched for them yet, so they are few and short."""
    try:
        rows = json.loads(data)
        if len(rows) > MAX_SIGNATURES:
            raise BundleError(f"the bundle has {len(rows)} signatures: at most {MAX_SIGNATURES}")
        return [
            (str(row["key_id"]), base64.b64decode(row["signature"], validate=True)) for row in rows
        ]
    except BundleError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(f"the bundle's signatures cannot be read: {error!r}") from error


def _read(row: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float64]]) -> Bundle:
    return Bundle(
        policy=row["policy"],
        version=int(row["version"]),
        serial=int(row["serial"]),
        issued_at=datetime.fromisoformat(row["issued_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        arms=tuple(arm_from_json(arm) for arm in row["arms"]),
        schema=Schema.from_json(row["features"]),
        scorer=base.load(row["scorer"], {n: t for n, t in tensors.items() if "/" not in n}),
        fallback_arm=row["fallback_arm"],
        learner=row["learner"],
        wait_s=float(row["wait_s"]),
        golden=tuple(map(Golden.from_json, row["golden"])),
        lineup=Lineup.from_json(row["lineup"], tensors) if "lineup" in row else ALONE,
        heads=Heads.from_json(row["heads"], tensors) if "heads" in row else NO_HEADS,
    )


def _tensors(bundle: Bundle) -> bytes:
    every = {**bundle.scorer.tensors(), **bundle.lineup.tensors(), **bundle.heads.tensors()}
    return safetensors.numpy.save(dict(sorted(every.items())))


def arm_as_json(arm: Arm) -> dict[str, Any]:
    """Plain form of an arm, for a manifest, a table or an API answer.

    An energy that nobody knows is left out: edges that do not know the field take the rest.
    """
    energies = ("joules_per_token_in", "joules_per_token_out")
    known = {name: getattr(arm.card, name) for name in energies}
    return {
        "name": arm.name,
        "model": arm.model,
        "endpoint": arm.endpoint,
        "api_key_env": arm.api_key_env,
        "card": {
            "usd_per_mtok_in": arm.card.usd_per_mtok_in,
            "usd_per_mtok_out": arm.card.usd_per_mtok_out,
            "context_tokens": arm.card.context_tokens,
            "tags": list(arm.card.tags),
            "capabilities": list(arm.card.capabilities),
            **{name: value for name, value in known.items() if value is not None},
        },
    }


def arm_from_json(row: Mapping[str, Any]) -> Arm:
    """The arm that :func:`arm_as_json` wrote."""
    card = dict(row.get("card") or {})
    for name in ("tags", "capabilities"):
        card[name] = tuple(card.get(name, ()))
    return Arm(row["name"], row["model"], row["endpoint"], Card(**card), row.get("api_key_env"))
