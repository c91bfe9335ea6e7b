"""The region of migration's version 1 as a client of the time uses it, over a `Wire`."""

from collections.abc import Iterator

from tests.session.harness import Wire, command

REGION, DATA = 9, 4096
SEGMENT = 8192
REGION_READ, REGION_WRITE = command(9), command(10)
STATE, RESERVED, PENDING, OFFSET, SIZE = (0, 4), (4, 4), (8, 8), (16, 8), (24, 8)
"""(offset, width) of the registers."""


def load(wire: Wire, register: tuple[int, int]) -> int:
    offset, width = register
    reply = wire.ask(REGION_READ, REGION_READ.request.pack(offset, REGION, width))
    assert reply.errno == 0
    return int.from_bytes(reply.payload[16:], "little")


def store(wire: Wire, register: tuple[int, int], value: int) -> int:
    offset, width = register
    return put_bytes(wire, offset, value.to_bytes(width, "little"))


def get_bytes(wire: Wire, offset: int, count: int) -> bytes:
    return wire.ask(REGION_READ, REGION_READ.request.pack(offset, REGION, count)).payload[16:]


def put_bytes(wire: Wire, offset: int, data: bytes) -> int:
    return wire.ask(REGION_WRITE, REGION_WRITE.request.pack(offset, REGION, len(data)) + data).errno


def segments(wire: Wire) -> Iterator[bytes]:
    """The segments that there are now, as a client of the time read them."""
    while pending := load(wire, PENDING):
        assert load(wire, PENDING) == pending
        offset, size = load(wire, OFFSET), load(wire, SIZE)
        assert (load(wire, OFFSET), load(wire, SIZE)) == (offset, size)
        half = size // 2
        yield (
            get_bytes(wire, offset, half) + get_bytes(wire, offset + half, size - half)
            if half
            else get_bytes(wire, offset, size)
        )
