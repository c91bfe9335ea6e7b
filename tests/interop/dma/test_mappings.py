"""The table of mappings that DMA_MAP and DMA_UNMAP fill and empty."""

import errno
import os
import struct

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually, refused
from tests.interop.dma.conftest import COPY, DONE, FILL, HIGH, MAPPED, SIZE, TO_BUFFER, dma


def dma_map(client: raw.Client, argsz: int, flags: int, offset: int, address: int, size: int) -> None:
    """DMA_MAP with every field free."""
    client.request(raw.DMA_MAP, struct.pack("=IIQQQ", argsz, flags, offset, address, size))


MAP_ERRORS = [
    ("argsz", (31, 3, 0, 0x1000, 0x1000), errno.EINVAL),
    ("no permission", (32, 0, 0, 0x1000, 0x1000), errno.EINVAL),
    ("unknown flag", (32, 7, 0, 0x1000, 0x1000), errno.EINVAL),
    ("size 0", (32, 3, 0, 0x1000, 0), errno.EINVAL),
    ("wrap", (32, 3, 0, HIGH, 0x2000), errno.EINVAL),
    ("address misaligned", (32, 3, 0, 0x1001, 0x1000), errno.EINVAL),
    ("size misaligned", (32, 3, 0, 0x1000, 0x1001), errno.EINVAL),
    ("the same", (32, 3, 0, 0x10000, 0x4000), errno.EEXIST),
    ("overlap at the start", (32, 3, 0, 0xF000, 0x2000), errno.EEXIST),
    ("overlap at the end", (32, 3, 0, 0x13000, 0x2000), errno.EEXIST),
    ("inside", (32, 3, 0, 0x11000, 0x1000), errno.EEXIST),
    ("around", (32, 3, 0, 0, 0x100000), errno.EEXIST),
]


@pytest.mark.parametrize(("fields", "code"), [e[1:] for e in MAP_ERRORS], ids=[e[0] for e in MAP_ERRORS])
def test_dma_map_that_is_wrong_is_refused(client: raw.Client, fields: tuple[int, ...], code: int) -> None:
    """S1.10, S1.5, S3.17."""
    client.dma_map(0x10000, 0x4000)
    with refused(code):
        dma_map(client, *fields)
    client.dma_map(0xF000, 0x1000)
    client.dma_map(0x14000, 0x1000)


def test_dma_map_that_ends_at_2_to_the_64_is_taken(client: raw.Client) -> None:
    """S1.10: an end of exactly 2^64 is not a wrap."""
    client.memory[HIGH] = bytearray(0x1000)
    client.dma_map(HIGH, 0x1000)
    with refused(errno.EEXIST):
        client.dma_map(HIGH, 0x1000)
    assert dma(client, FILL, 0, HIGH + 0xFF0, 16) == DONE
    client.dma_unmap(0xFFFFFFFFFFF00000, 0x100000)
    client.dma_map(HIGH, 0x1000)


def test_dma_map_with_two_fds_is_einval(server: Server, client: raw.Client, memory: int) -> None:
    """S1.10: more than one fd is EINVAL and all are closed."""
    before = server.descriptors()
    for count in (2, 3, 16):
        with refused(errno.EINVAL):
            client.request(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, 4096), [memory] * count)
    assert eventually(lambda: server.descriptors() == before)
    client.dma_map(0, 4096, memory)


def test_dma_map_with_an_fd_that_cannot_be_mapped_is_refused(server: Server, client: raw.Client) -> None:
    """Specification: if the memory can be mapped a descriptor is sent, so one that cannot be is an error."""
    before = server.descriptors()
    ours = [*os.pipe(), os.eventfd(0), os.open("/", os.O_RDONLY)]
    for fd in ours:
        with pytest.raises(raw.RefusedError):
            client.dma_map(0, 4096, fd)
        os.close(fd)
    assert eventually(lambda: server.descriptors() == before)
    client.dma_map(0, 4096)


def test_dma_map_beyond_the_end_of_the_file_is_refused(client: raw.Client, memory: int) -> None:
    """Specification, Security Considerations: touching what is behind the file's end would be a SIGBUS."""
    with pytest.raises(raw.RefusedError):
        client.dma_map(0, 2 * SIZE, memory)
    with pytest.raises(raw.RefusedError):
        client.dma_map(0, SIZE, memory, offset=0x1000)
    client.dma_map(0, SIZE, memory)


@pytest.mark.parametrize(("command", "source"), [(FILL, 0), (TO_BUFFER, MAPPED), (COPY, MAPPED)])
def test_dma_to_a_file_that_the_client_has_cut_does_not_kill_the_server(
    own_server: Server, memory: int, command: int, source: int
) -> None:
    """Issue 2: never a crash; specification, Security Considerations: servers do not trust clients."""
    with raw.Client(own_server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(MAPPED, SIZE, memory)
        os.ftruncate(memory, 0)
        assert dma(client, command, source, 0 if command == TO_BUFFER else MAPPED, 64) == 0x80000000 | errno.EFAULT
    assert own_server.process.poll() is None, "the server process is dead"
    with raw.Client(own_server.path) as client:
        assert client.read(raw.BAR0, 0) == 0x54534554


def table(client: raw.Client) -> None:
    """Three maps: 0x10000+0x4000, 0x14000+0x1000, 0x20000+0x1000."""
    for address, size in ((0x10000, 0x4000), (0x14000, 0x1000), (0x20000, 0x1000)):
        client.dma_map(address, size)


def left(client: raw.Client) -> set[int]:
    """Which of the three are still there."""
    found: set[int] = set()
    for address, size in ((0x10000, 0x4000), (0x14000, 0x1000), (0x20000, 0x1000)):
        message = client.send(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, address, size))
        code = client.receive()[0:4:3]
        assert code in ((message, 0), (message, errno.EEXIST))
        found |= {address} if code[1] else set()
    return found


UNMAPS = [
    ("exact", (0x10000, 0x4000, 0), {0x14000, 0x20000}),
    ("two", (0x10000, 0x5000, 0), {0x20000}),
    ("two with room around", (0xF000, 0x7000, 0), {0x20000}),
    ("everything", (0, 0x100000, 0), set()),
    ("power of two", (0, 1 << 63, 0), set()),
    ("to 2^64", (0x8000, (1 << 64) - 0x8000, 0), set()),
    ("all", (0, 0, 2), set()),
]


@pytest.mark.parametrize(("fields", "rest"), [u[1:] for u in UNMAPS], ids=[u[0] for u in UNMAPS])
def test_dma_unmap_removes_every_mapping_inside_the_range(
    client: raw.Client, fields: tuple[int, int, int], rest: set[int]
) -> None:
    """S1.10; the reply repeats the entry of the request."""
    table(client)
    assert client.dma_unmap(*fields) == struct.pack("=IIQQ", 24, fields[2], fields[0], fields[1])
    assert left(client) == rest


UNMAP_ERRORS = [
    ("cuts the start", (0x10000, 0x2000, 0), errno.ENOENT),
    ("cuts the end", (0x12000, 0x2000, 0), errno.ENOENT),
    ("cuts the middle", (0x11000, 0x1000, 0), errno.ENOENT),
    ("one whole and a cut", (0x12000, 0x10000, 0), errno.ENOENT),
    ("nothing there", (0x30000, 0x1000, 0), errno.ENOENT),
    ("size 0", (0x10000, 0, 0), errno.EINVAL),
    ("wrap", (HIGH, 0x2000, 0), errno.EINVAL),
    ("address misaligned", (0x10001, 0x4000, 0), errno.EINVAL),
    ("size misaligned", (0x10000, 0x3FFF, 0), errno.EINVAL),
    ("dirty bitmap", (0x10000, 0x4000, 1), errno.EINVAL),
    ("unknown flag", (0x10000, 0x4000, 4), errno.EINVAL),
    ("all with an address", (0x10000, 0, 2), errno.EINVAL),
    ("all with a size", (0, 0x1000, 2), errno.EINVAL),
    ("all and dirty bitmap", (0, 0, 3), errno.EINVAL),
]


@pytest.mark.parametrize(("fields", "code"), [u[1:] for u in UNMAP_ERRORS], ids=[u[0] for u in UNMAP_ERRORS])
def test_dma_unmap_that_is_wrong_removes_nothing(client: raw.Client, fields: tuple[int, int, int], code: int) -> None:
    """S1.10: a range that cuts a mapping or hits none is ENOENT, and nothing is removed."""
    table(client)
    with refused(code):
        client.dma_unmap(*fields)
    assert left(client) == {0x10000, 0x14000, 0x20000}


def test_dma_unmap_of_all_in_an_empty_table_succeeds(client: raw.Client) -> None:
    """S1.10; argsz below 24 is EINVAL."""
    assert len(client.dma_unmap(0, 0, 2)) == 24
    with refused(errno.EINVAL):
        client.dma_unmap(0, 0, 2, argsz=23)
    assert len(client.dma_unmap(0, 0, 2, argsz=4096)) == 24


def test_dma_maps_1000_pipelined_with_one_failure_answer_in_order(
    server: Server, client: raw.Client, memory: int
) -> None:
    """S1.11: 1000 pipelined maps and unmaps with one deliberate failure; only that ID errors; S1.10: fd leak check."""
    before = server.descriptors()
    idents = []
    for n in range(500):
        address = 0x1000 if n == 250 else 0x1000 * (n + 1)
        payload = struct.pack("=IIQQQ", 32, 3, 0, address, 0x1000)
        idents.append(client.send(raw.DMA_MAP, payload, [memory] if n % 2 else []))
    replies = [client.receive() for _ in range(500)]
    idents += [client.send(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, 0x1000 * (n + 1), 0x1000)) for n in range(500)]
    replies += [client.receive() for _ in range(500)]
    assert [reply.ident for reply in replies] == idents
    assert [(n, reply.error) for n, reply in enumerate(replies) if reply.flags != raw.REPLY] == [
        (250, errno.EEXIST),
        (750, errno.ENOENT),
    ]
    assert eventually(lambda: server.descriptors() == before)
