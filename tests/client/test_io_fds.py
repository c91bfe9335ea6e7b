"""Doorbells through both ends: our client, our server, a loop; and replies that make no sense."""

import asyncio
import os
import struct
from collections.abc import Iterator

import pytest

from tests.client.conftest import connected
from vfuserver import Bar, Doorbell, KiB, LocalError, PciDevice, PciIdentity, PeerError
from vfuserver.client import Client
from vfuserver.client.io_fds import decode_io_fds
from vfuserver.vfio import IoEventFlags, IoFdType


class Rung(PciDevice):
    """Two doorbells."""

    identity = PciIdentity(vendor=0x1234, device=0x000C)
    mmio = Bar(0, size=4 * KiB)
    kick = mmio.wo(0x00)
    tail = mmio.wo(0x04, width=2)
    last = mmio.ro(0x08)
    by_match = Doorbell(kick, match=5)
    by_shadow = Doorbell(tail, shadow=True)

    @kick.on_write
    @tail.on_write
    def on_write(self, value: int) -> None:
        self.last = self.last << 16 | value


@pytest.fixture
def device() -> Iterator[Rung]:
    made = Rung()
    yield made
    made.close()


async def becomes(client: Client, value: int) -> None:
    async with asyncio.timeout(5):
        while int.from_bytes(await client.region_read(0, 8, 4), "little") != value:
            await asyncio.sleep(0)


async def test_rings_reach_the_model_and_bring_their_values(device: Rung) -> None:
    async with connected(device) as client:
        await client.negotiate()
        await client.enable()
        io_fds = await client.region_io_fds(0)
        match, shadow = io_fds.sub_regions
        assert (match.type, match.offset, match.size, match.value) == (IoFdType.IOEVENTFD, 0, 4, 5)
        assert (match.flags, shadow.type, shadow.size) == (IoEventFlags.DATAMATCH, IoFdType.SHADOW, 2)
        assert not match.ring(6)
        assert match.ring(5)
        await becomes(client, 5)
        assert shadow.ring(0xABCD)
        await becomes(client, 0x0005_ABCD)


async def test_a_region_without_any_has_none(device: Rung) -> None:
    async with connected(device) as client:
        await client.negotiate()
        io_fds = await client.region_io_fds(7)
        assert (io_fds.index, io_fds.sub_regions, io_fds.fds) == (7, (), [])


# -- what a server may say


def row(kind: int = 0, fd: int = 0, other: int = 0) -> bytes:
    return struct.pack("=QQIIIIQ", 0x10, 4, fd, kind, 1, other, 0x77)


def reply(*rows: bytes) -> tuple[bytes, int, int]:
    size = 16 + sum(map(len, rows))
    return struct.pack("=IIII", size, 0, 0, len(rows)) + b"".join(rows), size, len(rows)


def test_an_ioregionfd_is_decoded_and_not_spoken_to() -> None:
    (one,) = decode_io_fds(*reply(row(1)), [9])
    assert (one.type, one.fd, one.value) == (IoFdType.IOREGIONFD, 9, 0x77)
    with pytest.raises(LocalError, match="ioregionfd"):
        one.ring()


def test_larger_sub_regions_of_a_later_version_are_read_as_far_as_they_are_known() -> None:
    longer = struct.pack("=QQIIIIQQQ", 0x10, 4, 0, 2, 0, 1, 0x20, 0x77, 0)
    one, two = decode_io_fds(*reply(longer, longer), [8, 9])
    assert one == two
    assert (one.fd, one.shadow_fd, one.shadow_offset, one.value) == (8, 9, 0x20, 0x77)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row()[:39]], "40 or more"),
        ([row() + bytes(4)], "40 or more"),
        ([row(), row() + b"\0"], "40 or more"),
        ([row(3)], "type must be one of"),
        ([row(0, 2)], "not number 2"),
        ([row(2, 0, 2) + bytes(8)], "not number 2"),
    ],
)
def test_sub_regions_that_make_no_sense_are_refused(rows: list[bytes], words: str) -> None:
    with pytest.raises(PeerError, match=words):
        decode_io_fds(*reply(*rows), [8, 9])


def test_bytes_without_sub_regions_are_refused() -> None:
    with pytest.raises(PeerError, match="0 sub-regions in 8 bytes"):
        decode_io_fds(bytes(24), 24, 0, [])


def test_closing_twice_closes_once(device: Rung) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def ask() -> None:
        async with connected(device) as client:
            await client.negotiate()
            (await client.region_io_fds(0)).close()

    asyncio.run(ask())
    assert len(os.listdir("/proc/self/fd")) == before
