"""Read the lines of an upload: NDJSON, perhaps gzipped, every limit kept while reading."""

import zlib
from dataclasses import dataclass

from fastapi import Request

from controlplane.api.errors import ProblemError
from feedback.lines import MAX_LINES

MAX_COMPRESSED = 8 * 2**20
MAX_PLAIN = 64 * 2**20
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Upload:
    """A body as it came."""

    body: bytes
    gzipped: bool


async def receive(request: Request) -> Upload:
    """Read the body.

    Raises:
        ProblemError: 413 when it is too large, 415 for another encoding.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise ProblemError(
            415,
            f"Content-Encoding {encoding!r} is not known",
            field="Content-Encoding",
            value=encoding,
            remedy="send gzip, or nothing",
        )
    limit = MAX_COMPRESSED if encoding == "gzip" else MAX_PLAIN
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(f"the body has more than {limit:,} bytes")
    return Upload(bytes(body), encoding == "gzip")


def lines_of(upload: Upload) -> list[bytes]:
    """The lines of a body.

    Raises:
        ProblemError: 413 when there are too many or they are too large, 400 for damaged gzip.
    """
    plain = inflate(upload.body, MAX_PLAIN) if upload.gzipped else upload.body
    plain = plain.removesuffix(b"\n")
    count = plain.count(b"\n") + 1
    if count > MAX_LINES:
        raise too_large(f"the batch has {count:,} lines: at most {MAX_LINES:,}")
    return plain.split(b"\n") if plain else []


def inflate(body: bytes, limit: int) -> bytes:
    """Decompress gzip members, never making more than ``limit`` bytes.

    Raises:
        ProblemError: 413 when there would be more, 400 when it is damaged or cut short.
    """
    plain = bytearray()
    rest = body
    while rest:
        member = zlib.decompressobj(_GZIP)
        try:
            plain += member.decompress(rest, limit + 1 - len(plain))
        except zlib.error as error:
            raise ProblemError(
                400, f"the body is not gzip: {error}", remedy="send it again"
            ) from error
        if len(plain) > limit:
            raise too_large(f"the body inflates to more than {limit:,} bytes")
        if not member.eof:
            raise ProblemError(400, "the gzip body is cut short", remedy="send it again")
        rest = member.unused_data
    return bytes(plain)


def too_large(detail: str) -> ProblemError:
    """413 with its remedy."""
    return ProblemError(413, detail, remedy="send it in smaller parts")
