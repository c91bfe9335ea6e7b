"""DMA_MAP and DMA_UNMAP: S1.5, S1.10, S1.11, S1.14, S3.17."""

import errno
import os
from collections.abc import Iterator

import pytest

from tests.session.device import LittleDevice
from tests.session.harness import Message, Wire
from vfuserver._core import Gate
from vfuserver.iommu import AreaAccess
from vfuserver.session import SessionOptions
from vfuserver.session.commands.dma_map import DmaMap
from vfuserver.session.commands.dma_unmap import DmaUnmap
from vfuserver.wire import command_message

PAGE = 0x1000
MIB = 1 << 20
TOP = 1 << 64


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MIB)
    yield fd
    os.close(fd)


def map_(wire: Wire, address: int, size: int, fds: tuple[int, ...] = (), **fields: int) -> int:
    request = {"argsz": 32, "flags": 3, "offset": 0, "address": address, "size": size, **fields}
    return wire.ask(DmaMap, DmaMap.request.build(**request), fds).errno


def unmap(wire: Wire, address: int, size: int, **fields: int) -> Message:
    request = {"argsz": 24, "flags": 0, "address": address, "size": size, **fields}
    return wire.ask(DmaUnmap, DmaUnmap.request.build(**request))


def reached(wire: Wire) -> list[tuple[int, int, int, int]]:
    """(iova, size, prot, ACCESS_*) of every area."""
    return [area[:4] for area in wire.session.connection.ioas.areas()]


def areas(wire: Wire) -> list[tuple[int, int]]:
    return [(iova, size) for iova, size, _, _ in reached(wire)]


# -- mapping


def test_map_with_a_descriptor_is_mapped_and_the_descriptor_is_not_kept_twice(wire: Wire, memory: int) -> None:
    assert map_(wire, 0x10000, MIB, (memory,)) == 0
    assert map_(wire, 0x10000 + MIB, PAGE, (memory,), offset=PAGE) == 0
    mapped = AreaAccess.MAPPED
    assert reached(wire) == [(0x10000, MIB, 3, mapped), (0x10000 + MIB, PAGE, 3, mapped)]


def test_map_reply_has_no_payload(wire: Wire, memory: int) -> None:
    reply = wire.ask(DmaMap, DmaMap.request.pack(32, 3, 0, 0, PAGE), [memory])
    assert (reply.payload, reply.errno) == (b"", 0)


def test_map_without_a_descriptor_is_reached_by_messages_only(wire: Wire) -> None:
    assert map_(wire, 0, PAGE, offset=123) == 0
    assert reached(wire) == [(0, PAGE, 3, AreaAccess.MESSAGES)]


WAYS = {
    3: AreaAccess.MAPPED,
    7: AreaAccess.MAPPED,
    11: AreaAccess.FILE,
    15: AreaAccess.MAPPED,
}


@pytest.mark.parametrize("flags", WAYS)
def test_mode_bits_say_how_a_descriptor_is_used(wire: Wire, memory: int, flags: int) -> None:
    """field-notes A.1: bit 2 is mmap, bit 3 file I/O; neither is a client from before them, and mmap."""
    assert map_(wire, 0, PAGE, (memory,), flags=flags) == 0
    assert reached(wire) == [(0, PAGE, 3, WAYS[flags])]


@pytest.mark.parametrize("flags", [7, 11, 15])
def test_a_mode_without_a_descriptor_is_einval(wire: Wire, flags: int) -> None:
    """field-notes A.1."""
    assert map_(wire, 0, PAGE, flags=flags) == errno.EINVAL
    assert areas(wire) == []


def test_file_io_needs_no_aligned_offset(wire: Wire, memory: int) -> None:
    assert map_(wire, 0, PAGE, (memory,), flags=11, offset=5) == 0
    os.pwrite(memory, b"at five", 5)
    wire.session.connection.backend.gate.set(Gate.MASTER)
    assert wire.session.connection.memory.read_now(0, 7) == b"at five"


REFUSED = {
    "argsz": ({"argsz": 31}, errno.EINVAL),
    "no permission": ({"flags": 0}, errno.EINVAL),
    "a mode, but no permission": ({"flags": 12}, errno.EINVAL),
    "bit 4": ({"flags": 19}, errno.EINVAL),
    "bit 31": ({"flags": 1 << 31 | 3}, errno.EINVAL),
    "size 0": ({"size": 0}, errno.EINVAL),
    "size misaligned": ({"size": PAGE + 1}, errno.EINVAL),
    "address misaligned": ({"address": 0x800}, errno.EINVAL),
    "wrap": ({"address": TOP - PAGE, "size": 2 * PAGE}, errno.EINVAL),
    "offset misaligned": ({"offset": 1}, errno.EINVAL),
    "offset misaligned, mode mmap": ({"flags": 7, "offset": 1}, errno.EINVAL),
    "offset misaligned, both modes": ({"flags": 15, "offset": 1}, errno.EINVAL),
    "beyond the file": ({"offset": MIB}, errno.EINVAL),
    "beyond the file, mode file I/O": ({"flags": 11, "offset": MIB}, errno.EINVAL),
    "offset wraps": ({"offset": TOP - PAGE}, errno.EINVAL),
}


@pytest.mark.parametrize("case", REFUSED)
def test_map_refused_leaves_nothing_behind(wire: Wire, memory: int, case: str) -> None:
    """S1.10, S1.12; the descriptors are closed (the leak fixture counts)."""
    fields, expected = dict(REFUSED[case][0]), REFUSED[case][1]
    assert map_(wire, fields.pop("address", 0), fields.pop("size", PAGE), (memory,), **fields) == expected
    assert areas(wire) == []


def test_map_with_two_descriptors_is_einval(wire: Wire, memory: int) -> None:
    """S1.10."""
    assert map_(wire, 0, PAGE, (memory, memory)) == errno.EINVAL
    assert areas(wire) == []


def test_map_up_to_the_very_top_is_no_wrap(wire: Wire) -> None:
    """S1.10: an end of exactly 2^64."""
    assert map_(wire, TOP - PAGE, PAGE) == 0
    assert areas(wire) == [(TOP - PAGE, PAGE)]


@pytest.mark.parametrize(("address", "size"), [(0x4000, PAGE), (0x3000, 2 * PAGE), (0x5000, 2 * PAGE), (0, MIB)])
def test_map_over_a_mapping_is_eexist(wire: Wire, address: int, size: int) -> None:
    """S1.10."""
    assert map_(wire, 0x4000, 2 * PAGE) == 0
    assert map_(wire, address, size) == errno.EEXIST
    assert areas(wire) == [(0x4000, 2 * PAGE)]


def test_map_beyond_the_limit_is_enospc_until_one_is_unmapped(device: LittleDevice) -> None:
    """S1.14."""
    wire = Wire(device, SessionOptions(max_dma_maps=4))
    wire.negotiate()
    assert [map_(wire, i * PAGE, PAGE) for i in range(5)] == [0, 0, 0, 0, errno.ENOSPC]
    assert unmap(wire, PAGE, PAGE).errno == 0
    assert map_(wire, 4 * PAGE, PAGE) == 0
    wire.close()


def test_map_is_aligned_to_the_smallest_page_that_was_stated(device: LittleDevice) -> None:
    """S1.10: misaligned to pgsizes."""
    wire = Wire(device, SessionOptions(pgsizes=0x10000))
    wire.negotiate()
    assert map_(wire, PAGE, 0x10000) == errno.EINVAL
    assert map_(wire, 0x10000, 0x10000) == 0
    wire.close()


def test_map_of_a_descriptor_that_cannot_be_mapped_is_refused(wire: Wire) -> None:
    ends = os.pipe()
    assert map_(wire, 0, PAGE, (ends[0],)) != 0
    assert areas(wire) == []
    for fd in ends:
        os.close(fd)


# -- unmapping


def test_unmap_echoes_the_request(wire: Wire) -> None:
    """S1.9: 24 bytes, whatever came behind them."""
    map_(wire, 0x4000, PAGE)
    request = DmaUnmap.request.pack(40, 0, 0x4000, PAGE)
    assert wire.ask(DmaUnmap, request + b"more").payload == request
    assert areas(wire) == []


def test_unmap_removes_every_mapping_inside_the_range(wire: Wire) -> None:
    """S1.10, field-notes G: one range that covers many."""
    for address in (0x1000, 0x3000, 0x8000):
        map_(wire, address, PAGE)
    assert unmap(wire, 0, 0x8000).errno == 0
    assert areas(wire) == [(0x8000, PAGE)]


@pytest.mark.parametrize(("address", "size"), [(0x5000, 4 * PAGE), (0x2000, 3 * PAGE), (0x5000, PAGE)])
def test_unmap_that_cuts_a_mapping_is_enoent_and_removes_nothing(wire: Wire, address: int, size: int) -> None:
    """S1.10."""
    map_(wire, 0x2000, PAGE)
    map_(wire, 0x4000, 4 * PAGE)
    before = areas(wire)
    assert unmap(wire, address, size).errno == errno.ENOENT
    assert areas(wire) == before


def test_unmap_of_nothing_is_enoent(wire: Wire) -> None:
    """S1.10."""
    assert unmap(wire, 0, PAGE).errno == errno.ENOENT


@pytest.mark.parametrize(
    ("address", "size"), [(0, 0), (0, 1), (1, PAGE), (TOP - PAGE, 2 * PAGE), (0x800, PAGE), (0, TOP - 1)]
)
def test_unmap_of_an_impossible_range_is_einval(wire: Wire, address: int, size: int) -> None:
    """S1.10."""
    map_(wire, 0, PAGE)
    assert unmap(wire, address, size).errno == errno.EINVAL
    assert areas(wire) == [(0, PAGE)]


def test_unmap_in_two_halves_as_qemu_does_empties_the_table(wire: Wire) -> None:
    """field-notes G: the second half ends at exactly 2^64."""
    for address in (0, 0xFEF00000, TOP - PAGE):
        map_(wire, address, PAGE)
    assert unmap(wire, 0, 0xFEE00000).errno == 0
    assert unmap(wire, 0xFEF00000, 0xFFFFFFFF01100000).errno == 0
    assert areas(wire) == []


def test_unmap_all_succeeds_on_a_full_and_on_an_empty_table(wire: Wire) -> None:
    """S1.10: flag bit 1 with address = size = 0."""
    map_(wire, 0, PAGE)
    for _ in range(2):
        assert unmap(wire, 0, 0, flags=2).errno == 0
        assert areas(wire) == []


@pytest.mark.parametrize("fields", [{"flags": 1}, {"flags": 3}, {"flags": 4}, {"flags": 0x80000000}, {"argsz": 23}])
def test_unmap_with_other_flags_or_argsz_is_einval(wire: Wire, fields: dict[str, int]) -> None:
    """S1.10."""
    map_(wire, 0, PAGE)
    assert unmap(wire, 0, PAGE, **fields).errno == errno.EINVAL
    assert areas(wire) == [(0, PAGE)]


@pytest.mark.parametrize(("address", "size"), [(PAGE, 0), (0, PAGE)])
def test_unmap_all_with_a_range_is_einval(wire: Wire, address: int, size: int) -> None:
    """S1.10."""
    map_(wire, 0, PAGE)
    assert unmap(wire, address, size, flags=2).errno == errno.EINVAL
    assert areas(wire) == [(0, PAGE)]


def test_a_thousand_pipelined_maps_are_answered_in_order(wire: Wire) -> None:
    """S1.11: only the wrong one errors."""
    request = DmaMap.request.pack
    messages = [command_message(2, i, request(32, 3, 0, (i if i != 500 else 0) * PAGE, PAGE)) for i in range(1000)]
    replies = wire.feed(b"".join(messages))
    assert [reply.header.message_id for reply in replies] == list(range(1000))
    assert [reply.header.message_id for reply in replies if reply.errno] == [500]
    assert len(areas(wire)) == 999
