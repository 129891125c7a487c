import base64
import json
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learners.bundle import (
    MAGIC,
    MAX_BUNDLE_BYTES,
    MAX_SIGNATURES,
    MAX_SIGNATURES_BYTES,
    Bundle,
    key_id,
    seal,
    unseal,
)
from learners.errors import BundleError, SpecError
from learners.exploration import Exploration
from learners.features import Feature, Schema, canonical_json
from learners.lineup import Golden
from learners.records import Arm, Card, Context
from learners.scorers.linear import Linear

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SCHEMA = Schema(
    (Feature("domain", "category", values=("law", "maths")), Feature("terms", "vector", size=3))
)
CONTEXT: Context = {"domain": "law", "terms": [0.1, -0.2, 0.3]}
ARMS = ("cheap", "dear", "spare")


def private_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


KEYS = [private_key(i) for i in range(3)]
TRUSTED = [key.public_key() for key in KEYS]


def make_scorer(*, ucb: bool) -> Linear:
    random = np.random.default_rng(0)
    inverse = np.stack([np.eye(SCHEMA.dimension) * (i + 1) / 10 for i in range(3)])
    return Linear(
        arms=ARMS,
        weights=random.normal(size=(3, SCHEMA.dimension)),
        exploration=Exploration("squarecb", 0.06, 12.0),
        inverse=inverse if ucb else None,
        alpha=0.5 if ucb else 0.0,
    )


def make_bundle(*, ucb: bool = False) -> Bundle:
    card = Card(0.1, 0.4, 8192, ("fast",), ("tools",), joules_per_token_out=0.25)
    bundle = Bundle(
        policy="chat",
        version=17,
        serial=41,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=7),
        arms=tuple(
            Arm(name, f"org/{name}", "http://upstream/v1", card, "UPSTREAM_KEY") for name in ARMS
        ),
        schema=SCHEMA,
        scorer=make_scorer(ucb=ucb),
        fallback_arm="dear",
        learner="linucb",
        wait_s=60.0,
    )
    eligible = ("cheap", "spare")
    found = bundle.distribution(CONTEXT, eligible)
    return replace(bundle, golden=(Golden(CONTEXT, eligible, tuple(found.tolist())),))


@pytest.fixture(name="bundle", params=[False, True], ids=["linear", "linear_ucb"])
def _bundle(request) -> Bundle:
    return make_bundle(ucb=request.param)


def parts_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    (length,) = struct.unpack_from(">I", data, len(MAGIC))
    start = len(MAGIC) + 4
    manifest, rest = data[start : start + length], data[start + length :]
    (length,) = struct.unpack_from(">I", rest)
    return manifest, rest[4 : 4 + length], rest[4 + length :]


def join(manifest: bytes, signatures: bytes, tensors: bytes) -> bytes:
    head = MAGIC + struct.pack(">I", len(manifest)) + manifest
    return head + struct.pack(">I", len(signatures)) + signatures + tensors


def resign(manifest: bytes, tensors: bytes, key: Ed25519PrivateKey = KEYS[0]) -> bytes:
    signature = base64.b64encode(key.sign(MAGIC + manifest)).decode()
    rows = [{"key_id": key_id(key.public_key()), "signature": signature}]
    return join(manifest, canonical_json(rows), tensors)


def test_what_is_sealed_is_unsealed_the_same(bundle):
    again = unseal(seal(bundle, KEYS[:1]), TRUSTED)
    assert again.digest == bundle.digest
    assert again.arms == bundle.arms
    assert again.schema == bundle.schema
    assert (again.issued_at, again.expires_at) == (bundle.issued_at, bundle.expires_at)
    x = bundle.schema.encode_all([golden.context for golden in bundle.golden])
    assert np.array_equal(again.scorer.scores(x), bundle.scorer.scores(x))
    every = bundle.distribution(CONTEXT, ARMS)
    assert np.array_equal(again.distribution(CONTEXT, ARMS), every)
    assert seal(again, KEYS[:1]) == seal(bundle, KEYS[:1])
    again.self_test()


def test_the_same_bundle_gives_the_same_bytes(bundle):
    assert seal(bundle, KEYS) == seal(replace(bundle), KEYS)


def test_any_altered_byte_is_refused(bundle):
    data = seal(bundle, KEYS[:1])
    places = np.random.default_rng(0).choice(len(data), size=300, replace=False)
    for place in {0, len(MAGIC), len(MAGIC) + 4, len(data) - 1, *places.tolist()}:
        altered = bytearray(data)
        altered[place] ^= 0x01
        with pytest.raises(BundleError):
            unseal(bytes(altered), TRUSTED)


def test_a_bundle_cut_anywhere_is_refused(bundle):
    data = seal(bundle, KEYS[:1])
    for end in range(0, len(data), 97):
        with pytest.raises(BundleError):
            unseal(data[:end], TRUSTED)
    with pytest.raises(BundleError, match="tensors"):
        unseal(data + b"\0", TRUSTED)


def test_an_altered_manifest_under_the_old_signature_is_refused(bundle):
    manifest, signatures, tensors = parts_of(seal(bundle, KEYS[:1]))
    row = json.loads(manifest)
    row["fallback_arm"] = "cheap"
    with pytest.raises(BundleError, match="0 of the trusted keys"):
        unseal(join(canonical_json(row), signatures, tensors), TRUSTED)


def test_tensors_of_another_bundle_are_refused(bundle):
    manifest, signatures, _ = parts_of(seal(bundle, KEYS[:1]))
    weights = bundle.scorer.weights + 1
    other = replace(bundle, scorer=replace(bundle.scorer, weights=weights))
    _, _, tensors = parts_of(seal(other, KEYS[:1]))
    with pytest.raises(BundleError, match="tensors do not match"):
        unseal(join(manifest, signatures, tensors), TRUSTED)


def test_a_key_that_is_not_trusted_signs_in_vain(bundle):
    data = seal(bundle, [private_key(9)])
    with pytest.raises(BundleError, match="0 of the trusted keys"):
        unseal(data, TRUSTED)
    with pytest.raises(BundleError, match="0 of the trusted keys"):
        unseal(data, [])


def test_a_threshold_counts_keys_and_not_signatures(bundle):
    with pytest.raises(BundleError, match="1 of the trusted keys"):
        unseal(seal(bundle, [KEYS[0], KEYS[0]]), TRUSTED, threshold=2)
    assert unseal(seal(bundle, KEYS[:2]), TRUSTED, threshold=2).serial == 41
    mixed = seal(bundle, [KEYS[0], private_key(9)])
    with pytest.raises(BundleError, match="1 of the trusted keys"):
        unseal(mixed, TRUSTED, threshold=2)
    with pytest.raises(BundleError, match="0 of the trusted keys"):
        unseal(seal(bundle, []), TRUSTED, threshold=0)


@pytest.mark.parametrize(
    "signatures",
    [
        b"",
        b"{}",
        b"3",
        b"null",
        b"[3]",
        b'[{"key_id": "a"}]',
        b'[{"key_id": "a", "signature": "?"}]',
        b"\xff",
        b"[" * 10_000,
        canonical_json([{"key_id": key_id(TRUSTED[0]), "signature": "AAAA"}]),
        canonical_json([{"key_id": key_id(TRUSTED[0]), "signature": "AAAA"}] * 1000),
    ],
    ids=range(11),
)
def test_signatures_that_can_not_be_read_are_refused(bundle, signatures):
    manifest, _, tensors = parts_of(seal(bundle, KEYS[:1]))
    with pytest.raises(BundleError):
        unseal(join(manifest, signatures, tensors), TRUSTED)


def test_a_signatures_block_past_its_limit_is_refused_unread(bundle):
    manifest, signatures, tensors = parts_of(seal(bundle, KEYS[:1]))
    padded = signatures + b" " * (MAX_SIGNATURES_BYTES - len(signatures))
    assert unseal(join(manifest, padded, tensors), TRUSTED).serial == 41
    with pytest.raises(BundleError, match="signatures is cut short or too long"):
        unseal(join(manifest, padded + b" ", tensors), TRUSTED)


def test_signatures_are_counted_before_they_are_decoded(bundle):
    manifest, _, tensors = parts_of(seal(bundle, KEYS[:1]))
    rows = [{"key_id": "a", "signature": "no base64"}] * (MAX_SIGNATURES + 1)
    with pytest.raises(BundleError, match="33 signatures: at most 32"):
        unseal(join(manifest, canonical_json(rows), tensors), TRUSTED)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((), "guards"),
        (("scorer",), r"scorer\.guards"),
        (("scorer", "exploration"), r"scorer\.exploration\.guards"),
        (("arms", 1), r"arms\.guards"),
        (("features", 0), r"features\.guards"),
        (("golden", 0), r"golden\.guards"),
    ],
)
def test_what_this_edge_does_not_understand_of_a_signed_manifest_is_refused(bundle, place, said):
    manifest, _, tensors = parts_of(seal(bundle, KEYS[:1]))
    row = json.loads(manifest)
    at = row
    for step in place:
        at = at[step]
    at["guards"] = {"max_share": 0.5}
    with pytest.raises(BundleError, match=f"{said} is not known: upgrade the edge"):
        unseal(resign(canonical_json(row), tensors), TRUSTED)


def test_a_signed_number_that_overflows_is_refused(bundle):
    manifest, _, tensors = parts_of(seal(bundle, KEYS[:1]))
    with pytest.raises(BundleError, match="OverflowError"):
        unseal(resign(manifest.replace(b'"version":17', b'"version":1e999'), tensors), TRUSTED)


def test_a_signed_manifest_too_deep_to_read_is_refused(bundle):
    _, _, tensors = parts_of(seal(bundle, KEYS[:1]))
    with pytest.raises(BundleError, match="RecursionError"):
        unseal(resign(b'{"golden":' + b"[" * 100_000 + b"]" * 100_000 + b"}", tensors), TRUSTED)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"serial": "latest"},
        {"arms": []},
        {"fallback_arm": "nobody"},
        {"features": []},
        {"feature_schema_digest": "0" * 64},
        {"issued_at": "2026-11-21T12:00:00"},
        {"scorer": {"kind": "linear_ucb"}},
        {"golden": 3},
        {"arms": ["small"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_signed_manifest_that_makes_no_sense_is_refused(change):
    manifest, _, tensors = parts_of(seal(make_bundle(), KEYS[:1]))
    row = {**json.loads(manifest), **change}
    with pytest.raises(BundleError):
        unseal(resign(canonical_json(row), tensors), TRUSTED)


def test_a_golden_vector_that_is_off_is_refused(bundle):
    (golden,) = bundle.golden
    shifted = (golden.probabilities[0] + 2e-6, *golden.probabilities[1:])
    altered = replace(bundle, golden=(replace(golden, probabilities=shifted),))
    with pytest.raises(BundleError, match="golden vector 0 is off"):
        unseal(seal(altered, KEYS[:1]), TRUSTED).self_test()


@pytest.mark.parametrize(
    "change",
    [
        {"eligible": ("cheap", "nobody")},
        {"eligible": ()},
        {"context": {"terms": [1.0]}},
        {"probabilities": (0.5, 0.5)},
        {"probabilities": (float("nan"),) * 3},
    ],
)
def test_a_golden_vector_that_can_not_be_computed_is_refused(bundle, change):
    altered = replace(bundle, golden=(replace(bundle.golden[0], **change),))
    with pytest.raises(BundleError, match="golden vector 0"):
        altered.self_test()


def test_more_signatures_than_an_edge_reads_are_not_written(bundle):
    with pytest.raises(BundleError, match="at most 32"):
        seal(bundle, [KEYS[0]] * (MAX_SIGNATURES + 1))


def test_a_bundle_past_the_size_limit_is_neither_written_nor_read():
    wide = Schema((Feature("terms", "vector", size=1999),))
    arms = ("a", "b", "c")
    scorer = Linear(arms, np.zeros((3, 2000)), Exploration(), np.zeros((3, 2000, 2000)), alpha=1.0)
    bundle = replace(
        make_bundle(),
        arms=tuple(Arm(name, name, "http://upstream/v1") for name in arms),
        schema=wide,
        scorer=scorer,
        fallback_arm="a",
        golden=(),
    )
    with pytest.raises(BundleError, match="fewer columns"):
        seal(bundle, KEYS[:1])
    with pytest.raises(BundleError, match="at most"):
        unseal(MAGIC + bytes(MAX_BUNDLE_BYTES), TRUSTED)


def test_a_naive_time_is_refused():
    with pytest.raises(BundleError, match=r"expires_at.*no time zone"):
        replace(make_bundle(), expires_at=NOW.replace(tzinfo=None))


def test_an_unknown_arm_is_refused_by_name(bundle):
    with pytest.raises(SpecError, match="nobody"):
        bundle.distribution(CONTEXT, ("nobody",))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.full((3, SCHEMA.dimension), np.nan)},
        {"weights": np.zeros((2, SCHEMA.dimension))},
        {"inverse": np.full((3, SCHEMA.dimension, SCHEMA.dimension), np.inf)},
        {"inverse": np.zeros((3, 2, 2))},
        {"alpha": float("nan")},
        {"arms": ("cheap", "cheap", "spare")},
    ],
)
def test_a_scorer_that_is_not_whole_is_refused(change):
    with pytest.raises(SpecError):
        replace(make_scorer(ucb=True), **change)
