"""UUIDv7 (RFC 9562): ids that sort by time and carry it, made from a given time and entropy."""

from datetime import UTC, datetime
from uuid import UUID

from learners.errors import LearnersError

ENTROPY_BYTES = 10


class IdError(LearnersError):
    """An id is not a UUIDv7."""


def uuid7(at: datetime, entropy: bytes) -> UUID:
    """The id of something that happened at ``at``; ``entropy`` is 10 random bytes."""
    milliseconds = int(at.timestamp() * 1000)
    bits = int.from_bytes(entropy[:ENTROPY_BYTES], "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80
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
    """When the id was made, to the millisecond."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, tz=UTC)
