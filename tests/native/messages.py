"""Messages made by hand, from the specification's tables: the tests' own oracle of the header."""

import struct

VERSION, REGION_READ, REGION_WRITE, DMA_READ, WRITE_MULTI = 1, 9, 10, 11, 15
NO_REPLY, REPLY, ERROR = 0x10, 1, 0x20


def message(command: int, payload: bytes = b"", *, tag: int = 1, flags: int = 0, size: int | None = None) -> bytes:
    return struct.pack("<HHIII", tag, command, size or 16 + len(payload), flags, 0) + payload


def read(offset: int, count: int, region: int = 0, *, tag: int = 1) -> bytes:
    return message(REGION_READ, struct.pack("<QII", offset, region, count), tag=tag)


def write(offset: int, data: bytes, region: int = 0, *, tag: int = 1, flags: int = 0) -> bytes:
    return message(REGION_WRITE, struct.pack("<QII", offset, region, len(data)) + data, tag=tag, flags=flags)


def write_multi(*writes: tuple[int, int, bytes], tag: int = 1, flags: int = 0) -> bytes:
    entries = [struct.pack("<QII8s", offset, region, len(data), data) for region, offset, data in writes]
    return message(WRITE_MULTI, struct.pack("<Q", len(entries)) + b"".join(entries), tag=tag, flags=flags)


def replies(stream: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """(message id, command, flags, error, payload) of every message in `stream`, which must end with a whole one."""
    found, at = [], 0
    while at < len(stream):
        tag, command, size, flags, error = struct.unpack_from("<HHIII", stream, at)
        assert 16 <= size <= len(stream) - at
        found.append((tag, command, flags, error, stream[at + 16 : at + size]))
        at += size
    return found
