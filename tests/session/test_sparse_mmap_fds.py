"""Several descriptors for one region: who is told of them, in which bytes, and what everybody else gets."""

import os
from collections.abc import Iterator, Mapping

import pytest

from tests.session.device import RW, LittleDevice
from tests.session.harness import QEMU_JSON, Message, Wire
from vfuserver.session import SessionOptions
from vfuserver.session.commands.device_get_region_info import DeviceGetRegionInfo
from vfuserver.session.negotiation import parse_version_data, version_data
from vfuserver.session.region_capabilities import CAP_HEADER, SPARSE_MMAP_FDS, mappable_areas
from vfuserver.vfio import MmapArea, Region, RegionFlags
from vfuserver.wire import LayoutError

REGION = DeviceGetRegionInfo
SEVERAL = 4
"""The region whose areas lie in two files."""
SIZE = 0x10000
AGREED = {"max_msg_fds": 16, "sparse_mmap_fds": True}


@pytest.fixture
def other() -> Iterator[int]:
    """Another file."""
    fd = os.memfd_create("other")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def device(other: int) -> Iterator[LittleDevice]:
    backend = LittleDevice()
    areas = (MmapArea(0x1000, 0x1000), MmapArea(0x2000, 0x4000, other, 0x3000), MmapArea(0x8000, 0x1000))
    has(backend, areas, backend.fd)
    yield backend
    backend.close()


def has(device: LittleDevice, areas: tuple[MmapArea, ...], fd: int = -1) -> None:
    """The region has these areas."""
    regions = list(device.regions)
    regions[SEVERAL] = Region(SIZE, RW, table=regions[3].table, fd=fd, areas=areas)
    device.regions = regions


def asked(
    device: LittleDevice,
    proposal: Mapping[str, object] | None,
    argsz: int = 4096,
    options: SessionOptions | None = None,
) -> Message:
    """The region's info for a client that proposed this; in place of each descriptor the inode of its file."""
    wire = Wire(device, options)
    wire.negotiate(QEMU_JSON if proposal is None else version_data(proposal))
    reply = wire.ask(REGION, REGION.request.pack(argsz, 0, SEVERAL, 0, 0, 0))
    inodes = tuple(os.fstat(fd).st_ino for fd in reply.fds)
    wire.close()
    return reply._replace(fds=inodes)


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_a_client_that_knows_is_told_of_all_areas(device: LittleDevice, other: int) -> None:
    """Byte by byte: id 0x8001, version 1; offset, fd_offset, size, fd_index, pad of each area."""
    expected = (
        "90000000 0f000000 04000000 20000000 0000010000000000 0000000000000000"
        "0180 0100 00000000 03000000 00000000"
        "0010000000000000 0010000000000000 0010000000000000 00000000 00000000"
        "0020000000000000 0030000000000000 0040000000000000 01000000 00000000"
        "0080000000000000 0080000000000000 0010000000000000 00000000 00000000"
    )
    reply = asked(device, AGREED)
    assert reply.payload == bytes.fromhex(expected)
    assert reply.fds == (inode(device.fd), inode(other))


def test_an_argsz_too_small_is_told_what_is_needed(device: LittleDevice) -> None:
    reply = asked(device, AGREED, argsz=143)
    assert (REGION.reply.unpack(reply.payload)[0], len(reply.payload), reply.fds) == (144, 32, ())


@pytest.mark.parametrize(
    "proposal",
    [None, {"max_msg_fds": 16}, {"max_msg_fds": 16, "sparse_mmap_fds": False}, {"sparse_mmap_fds": True}],
    ids=["QEMU 11.1", "silent", "no", "one descriptor"],
)
def test_any_other_client_is_told_of_what_one_descriptor_reaches(
    device: LittleDevice, other: int, proposal: Mapping[str, object] | None
) -> None:
    """QEMU to 11.1 refuses a second descriptor (field-notes C.3); max_msg_fds is 1 unless VERSION says more."""
    reply = asked(device, proposal)
    flags = RW | RegionFlags.MMAP | RegionFlags.CAPS
    assert REGION.reply.unpack(reply.payload) == (64, flags, SEVERAL, 32, SIZE, 0x1000)
    assert mappable_areas(reply.payload, 32) == (MmapArea(0x2000, 0x4000),)
    assert reply.fds == (inode(other),)


def test_a_client_that_takes_no_descriptors_maps_nothing(device: LittleDevice) -> None:
    reply = asked(device, {"max_msg_fds": 0, "sparse_mmap_fds": True})
    assert REGION.reply.unpack(reply.payload) == (32, RW, SEVERAL, 0, SIZE, 0)
    assert reply.fds == ()


def test_id_16_is_for_clients_that_say_nothing(device: LittleDevice) -> None:
    """field-notes E: the first versions of the proposal."""
    reply = asked(device, None, options=SessionOptions(quirks={"sparse-mmap-fds": "16"}))
    assert CAP_HEADER.unpack(reply.payload[32:]) == (16, 1, 0)
    assert len(reply.fds) == 2


def test_one_file_is_told_the_old_way_to_all(device: LittleDevice) -> None:
    """The proposal: a single descriptor may go with SPARSE_MMAP, for older clients."""
    areas = tuple(MmapArea(offset, 0x1000, device.fd, 0x4000 + offset) for offset in (0x1000, 0x8000))
    has(device, areas)
    for proposal in (AGREED, None):
        reply = asked(device, proposal)
        assert REGION.reply.unpack(reply.payload)[5] == 0x4000
        assert mappable_areas(reply.payload, 32) == (MmapArea(0x1000, 0x1000), MmapArea(0x8000, 0x1000))
        assert reply.fds == (inode(device.fd),)


def test_one_file_in_another_order_needs_the_new_way(device: LittleDevice) -> None:
    areas = (MmapArea(0x1000, 0x1000, device.fd, 0), MmapArea(0x3000, 0x1000, device.fd, 0x1000))
    has(device, areas)
    assert mappable_areas(asked(device, AGREED).payload, 32, [7])[1] == MmapArea(0x3000, 0x1000, 7, 0x1000)
    reply = asked(device, None)  # a base offset below zero cannot be told
    assert (REGION.reply.unpack(reply.payload)[1], reply.fds) == (RW, ())


def test_version_repeats_the_key_to_a_client_that_said_yes(device: LittleDevice) -> None:
    for said in (True, False):
        wire = Wire(device)
        data = wire.negotiate(version_data({"sparse_mmap_fds": said})).payload[4:]
        assert (parse_version_data(data) or {}).get("sparse_mmap_fds", False) is said
        wire.close()


# -- what a client makes of it


def listed(*rows: tuple[int, int, int, int], cap_id: int = 0x8001) -> bytes:
    names = ("offset", "fd_offset", "size", "fd_index")
    areas = [dict(zip(names, row, strict=True), pad=0) for row in rows]
    return bytes(32) + CAP_HEADER.pack(cap_id, 1, 0) + SPARSE_MMAP_FDS.build(reserved=0, areas=areas)


@pytest.mark.parametrize("cap_id", [0x8001, 16])
def test_both_ids_are_read(cap_id: int) -> None:
    found = mappable_areas(listed((0x1000, 0x3000, 0x1000, 1), cap_id=cap_id), 32, [8, 9])
    assert found == (MmapArea(0x1000, 0x1000, 9, 0x3000),)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, 0, 0x1000, 2)], "descriptor 2 of 2"),
        ([(0, 0, 0, 0)], "0 bytes of descriptor 0"),
        ([(0x1000, 0, 0x1000, 0), (0, 0, 0x1001, 1)], "overlap at 0x1000"),
    ],
)
def test_areas_that_make_no_sense_are_refused(rows: list[tuple[int, int, int, int]], words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        mappable_areas(listed(*rows), 32, [8, 9])
