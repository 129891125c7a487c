"""UUIDv7 (RFC 9562): ids that sort by time and carry it, made from a given time and entropy."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from learners.errors import LearnersError

ENTROPY_BYTES = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class IdError(LearnersError):
    """An id is not a UUIDv7."""


def uuid7(at: datetime, entropy: bytes) -> UUID:
    """The id of something that happened at ``at``; ``entropy`` is 10 random bytes.

    Raises:
        IdError: ``at`` has no zone or is before 1970, or the entropy is of another length.
    """
    if at.tzinfo is None or at < _EPOCH:
        raise IdError(f"at={at} has no time zone or is before 1970: give an aware time")
    if len(entropy) != ENTROPY_BYTES:
        raise IdError(f"{len(entropy)} bytes of entropy: give {ENTROPY_BYTES}")
    # Whole numbers all the way: a float would lose a millisecond now and then.
    milliseconds = (at - _EPOCH) // _MILLISECOND
    bits = int.from_bytes(entropy, "big")
    value = milliseconds << 80
    value |= 0x7 << 76 | (bits >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | bits & ((1 << 62) - 1)
    return UUID(int=value)


def parse(text: str) -> UUID:
    """The UUIDv7 that the text is.

    Raises:
        IdError: It is no UUID, or of another version.
    """
    try:
        found = UUID(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise IdError(f"{text!r} is not a UUID: give a UUIDv7") from error
    if found.version != 7:
        raise IdError(f"{text!r} is a UUID of version {found.version}: give a UUIDv7")
    return found


def time_of(identifier: UUID) -> datetime:
    """When the id was made, to the millisecond.

    Raises:
        IdError: The id says a year past 9999.
    """
    try:
        return _EPOCH + (identifier.int >> 80) * _MILLISECOND
    except OverflowError as error:
        raise IdError(f"{identifier} carries no time before the year 10000") from error
