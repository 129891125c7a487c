"""What an AMD code object says of its kernels: the metadata note of its ELF file.

The note is MessagePack, named ``AMDGPU``, of type 32 (LLVM, "User Guide for AMDGPU Backend", code
object v3 and later).
"""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_NOTES = 7
_AMDGPU_METADATA = 32


def kernels(code: bytes) -> list[dict[str, Any]]:
    """The metadata of each kernel of a code object, with names as the note has them.

    Raises:
        ValueError: It is no little-endian ELF of 64 bits, or holds no metadata.
    """
    for kind, content in notes(code):
        if kind == _AMDGPU_METADATA:
            found = msgspec.msgpack.decode(content)
            return list(found["amdhsa.kernels"])
    raise ValueError("the code object holds no AMDGPU metadata note")


def notes(code: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and contents of an ELF file's notes named AMDGPU."""
    if len(code) < _HEADER.size or code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian ELF file of 64 bits")
    fields = _HEADER.unpack_from(code)
    start, size, count = fields[6], fields[11], fields[12]
    if size < _SECTION.size or start + size * count > len(code):
        raise ValueError("the ELF file is cut off: its sections lie beyond its end")
    for index in range(count):
        _, kind, _, _, offset, length, *_ = _SECTION.unpack_from(code, start + index * size)
        if kind == _NOTES:
            yield from _notes(code[offset : offset + length])


def _notes(section: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NOTE.size <= len(section):
        name_size, size, kind = _NOTE.unpack_from(section, at)
        name_at = at + _NOTE.size
        content_at = name_at + _padded(name_size)
        if section[name_at : name_at + name_size].rstrip(b"\0") == b"AMDGPU":
            yield kind, section[content_at : content_at + size]
        at = content_at + _padded(size)


def _padded(size: int) -> int:
    return (size + 3) & ~3
