"""DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO: field-notes C.3."""

import errno
import os

import pytest

from tests.session.device import AREAS, RW, LittleDevice
from tests.session.harness import Message, Wire, command
from vfuserver.session.commands.device_get_region_info import DeviceGetRegionInfo
from vfuserver.session.negotiation import version_data
from vfuserver.session.region_capabilities import mappable_areas
from vfuserver.vfio import DeviceFlags, RegionFlags
from vfuserver.wire import LayoutError

INFO, REGION, IRQ = command(4), DeviceGetRegionInfo, command(7)
WITH_CAPS = 32 + 8 + 8 + 2 * 16


def region_info(wire: Wire, index: int, argsz: int = 4096) -> Message:
    return wire.ask(REGION, REGION.request.pack(argsz, 0, index, 0, 0, 0))


def test_device_info_counts_regions_and_interrupts(wire: Wire) -> None:
    reply = wire.ask(INFO, INFO.request.pack(16, 0, 0, 0))
    assert INFO.reply.unpack(reply.payload) == (16, DeviceFlags.PCI | DeviceFlags.RESET, 9, 5)


@pytest.mark.parametrize(("number", "least"), [(4, 16), (5, 32), (7, 16)])
def test_argsz_below_the_fixed_part_is_einval(wire: Wire, number: int, least: int) -> None:
    asked = command(number)
    for argsz in (0, least - 1):
        request = asked.request.pack(argsz, *[0] * (len(asked.request.names) - 1))
        assert wire.ask(asked, request).errno == errno.EINVAL


def test_region_info_of_a_trapped_region_has_no_descriptor(wire: Wire) -> None:
    reply = region_info(wire, 0)
    assert REGION.reply.unpack(reply.payload) == (32, RW, 0, 0, 4096, 0)
    assert reply.fds == ()


def test_region_info_of_an_absent_region_is_all_zero(wire: Wire) -> None:
    assert REGION.reply.unpack(region_info(wire, 8).payload) == (32, 0, 8, 0, 0, 0)


@pytest.mark.parametrize("index", [9, 0xFFFFFFFF])
def test_region_info_of_an_unknown_index_is_einval(wire: Wire, index: int) -> None:
    assert region_info(wire, index).errno == errno.EINVAL


def test_region_info_with_areas_carries_the_capability_and_one_descriptor(wire: Wire, device: LittleDevice) -> None:
    reply = region_info(wire, 2)
    flags = RW | RegionFlags.MMAP | RegionFlags.CAPS
    assert REGION.reply.unpack(reply.payload) == (WITH_CAPS, flags, 2, 32, 0x10000, 0)
    assert mappable_areas(reply.payload, 32) == AREAS
    assert len(reply.payload) == WITH_CAPS
    assert [os.fstat(fd).st_ino for fd in reply.fds] == [os.fstat(device.fd).st_ino]


def test_region_info_bytes_are_those_of_the_kernels_structures(wire: Wire) -> None:
    """struct vfio_region_info, vfio_info_cap_header, vfio_region_info_cap_sparse_mmap, byte by byte."""
    expected = (
        "50000000 0f000000 02000000 20000000 0000010000000000 0000000000000000"
        "0100 0100 00000000 02000000 00000000"
        "0010000000000000 0020000000000000 0080000000000000 0080000000000000"
    )
    assert region_info(wire, 2).payload == bytes.fromhex(expected)


@pytest.mark.parametrize("argsz", [32, WITH_CAPS - 1])
def test_region_info_that_does_not_fit_says_what_it_needs(wire: Wire, argsz: int) -> None:
    """field-notes C.3: a larger argsz, no capabilities and no descriptor; QEMU checks cap_offset in it all the same."""
    reply = region_info(wire, 2, argsz)
    needed, _, _, cap_offset, size, _ = REGION.reply.unpack(reply.payload)
    assert (needed, cap_offset, size, len(reply.payload), reply.fds) == (WITH_CAPS, 32, 0x10000, 32, ())


def test_region_info_that_just_fits_is_complete(wire: Wire) -> None:
    assert len(region_info(wire, 2, WITH_CAPS).fds) == 1


def test_region_info_mappable_as_a_whole_has_a_descriptor_and_no_capability(wire: Wire) -> None:
    reply = region_info(wire, 3, 32)
    assert REGION.reply.unpack(reply.payload) == (32, RW | RegionFlags.MMAP, 3, 0, 0x10000, 0x10000)
    assert len(reply.fds) == 1


def test_region_info_for_a_client_that_takes_no_descriptors_is_not_mappable(fresh: Wire) -> None:
    fresh.negotiate(version_data({"max_msg_fds": 0}))
    reply = region_info(fresh, 2)
    assert REGION.reply.unpack(reply.payload) == (32, RW, 2, 0, 0x10000, 0)
    assert reply.fds == ()


def test_region_info_ignores_the_other_request_fields(wire: Wire) -> None:
    """S3.17: reserved fields are ignored on receipt."""
    request = REGION.request.pack(4096, 0xFF, 0, 7, 8, 9)
    assert wire.ask(REGION, request).payload == region_info(wire, 0).payload


def test_mappable_areas_of_a_looped_list_fails() -> None:
    reply = REGION.reply.pack(48, 0, 0, 32, 0, 0) + bytes.fromhex("0500 0100 20000000")
    with pytest.raises(LayoutError, match="offset 32"):
        mappable_areas(reply, 32)


def test_mappable_areas_beyond_the_reply_fails() -> None:
    with pytest.raises(LayoutError, match="offset 40"):
        mappable_areas(REGION.reply.pack(48, 0, 0, 40, 0, 0), 40)


def test_irq_info_is_what_the_backend_says(wire: Wire, device: LittleDevice) -> None:
    for index, irq in enumerate(device.irqs):
        reply = wire.ask(IRQ, IRQ.request.pack(16, 0, index, 0))
        assert IRQ.reply.unpack(reply.payload) == (16, irq.flags, index, irq.count)


def test_irq_info_of_an_unknown_index_is_einval(wire: Wire) -> None:
    assert wire.ask(IRQ, IRQ.request.pack(16, 0, 5, 0)).errno == errno.EINVAL
