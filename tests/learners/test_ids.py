from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.ids import IdError, parse, time_of, uuid7

times = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 — the strategy adds the zone
    timezones=st.just(UTC),
)
entropy = st.binary(min_size=10, max_size=10)


@given(times, entropy)
def test_an_id_carries_its_time_to_the_millisecond(at, random):
    identifier = uuid7(at, random)
    whole = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert time_of(identifier) == whole
    assert identifier.version == 7
    assert identifier.variant == "specified in RFC 4122"
    assert parse(str(identifier)) == identifier


@given(times, times, entropy, entropy)
def test_ids_sort_by_time(first, second, one, two):
    early, late = sorted((first, second))
    if late - early >= timedelta(milliseconds=1):
        assert uuid7(early, one) < uuid7(late, two)


@given(times, entropy, entropy)
def test_other_entropy_gives_another_id(at, one, two):
    # 74 of the 80 bits are used; the rest make room for version and variant.
    assert (uuid7(at, one) == uuid7(at, two)) == (_used(one) == _used(two))


def _used(random: bytes) -> tuple[int, int]:
    bits = int.from_bytes(random, "big")
    return bits >> 68, bits & ((1 << 62) - 1)


def test_the_zone_does_not_matter_but_must_be_there():
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=9)))
    assert uuid7(at, bytes(10)) == uuid7(elsewhere, bytes(10))
    with pytest.raises(IdError, match="no time zone"):
        uuid7(at.replace(tzinfo=None), bytes(10))


def test_what_makes_no_id_is_refused():
    at = datetime(2026, 11, 21, tzinfo=UTC)
    with pytest.raises(IdError, match="before 1970"):
        uuid7(datetime(1969, 12, 31, tzinfo=UTC), bytes(10))
    with pytest.raises(IdError, match="3 bytes"):
        uuid7(at, bytes(3))


V4 = "a5b936d5-7f38-41ef-9b34-63dd8a2a8ed5"


@pytest.mark.parametrize("text", ["", "nothing", "0" * 31, V4, str(UUID(int=0))])
def test_a_text_that_is_no_uuid7_is_refused(text):
    with pytest.raises(IdError, match="give a UUIDv7"):
        parse(text)


def test_an_id_past_the_last_year_has_no_time():
    with pytest.raises(IdError, match="10000"):
        time_of(UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"))
