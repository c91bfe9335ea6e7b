"""testdev, to the letter of its register map."""

import asyncio
import errno
import mmap

import pytest

from vfuserver import (
    AdvancedErrorReporting,
    CommandError,
    CorrectableError,
    ErrorMessage,
    PciDevice,
    PciExpress,
    ResetReason,
    UncorrectableError,
    load,
)
from vfuserver.pci import walk_extended
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import MmapArea, PciIrq, RegionFlags

INTX, MSI, MSIX, ERR, REQ = PciIrq


def refused(client: LocalClient, region: int, offset: int, width: int) -> int:
    with pytest.raises(CommandError) as raised:
        client.read(region, offset, width)
    return raised.value.errno


# -- identity -----------------------------------------------------------------------------------------------------


def test_identity_is_the_declared_one(client: LocalClient) -> None:
    assert client.read_config(0, 4) == b"\x34\x12\x57\x7e"
    assert client.read_config(8, 4) == b"\x01\x00\x00\xff"
    assert client.read_config(0x2C, 4) == b"\x34\x12\x01\x00"
    assert client.read_config(0x3D, 1) == b"\x01"


def test_configuration_space_has_the_declared_capabilities(client: LocalClient) -> None:
    at, found = client.read_config(0x34, 1)[0], []
    while at:
        found.append(client.read_config(at, 1)[0])
        at = client.read_config(at + 1, 1)[0]
    assert found == [0x01, 0x05, 0x11, 0x10, 0x09]
    assert client.backend.regions[7].size == 4096
    assert client.read_config(0x104, 8) == (0x0123_4567_89AB_CDEF).to_bytes(8, "little")
    links = walk_extended(client.read_config(0, 4096))
    assert [link.id for link in links] == [0x0003, 0x0001, 0x000B]


def test_flr_resets_all_of_the_device_and_keeps_eventfds(client: LocalClient, device: PciDevice) -> None:
    """S2.26, S2.30: advertised in DEVCAP, done before the write is answered; the bit reads 0."""
    express = device.config.find(PciExpress)
    assert express is not None
    assert client.read_config(express.start + 7, 1)[0] & 0x10
    client.arm(MSIX, 8)
    client.write(0, 4, 0x1234_5678)
    client.write(1, 0, 0x1234_5678)
    client.write(2, 0, 0x1234_5678)
    client.write_config(0x10, b"\x00\x00\xb0\xfe")
    client.write_config(express.start + 9, b"\xa8")
    assert device.config.image == device.config.reset_image
    client.enable()
    assert [client.read(bar, at) for bar, at in ((0, 4), (1, 0), (2, 0))] == [0, 0, 0]
    client.write(0, 0x18, 2)
    assert client.taken(MSIX, 2) == 1


def test_error_reported_as_the_guest_wants_it(client: LocalClient, device: PciDevice) -> None:
    """S2.27: recorded always, the ERR interrupt only when the guest has enabled the report; kept over a reset."""
    client.arm(ERR)
    express = device.config.find(PciExpress)
    assert express is not None
    assert device.report_error(UncorrectableError.MALFORMED_TLP, b"\x40") is None
    assert client.taken(ERR) == 0
    client.write_config(express.start + 8, b"\x07\x00")
    assert device.report_error(CorrectableError.RECEIVER) is ErrorMessage.CORRECTABLE
    assert client.taken(ERR) == 0
    assert device.report_error(UncorrectableError.MALFORMED_TLP) is ErrorMessage.FATAL
    assert client.taken(ERR) == 1
    assert client.read_config(express.start + 10, 2) == b"\x05\x00"
    device.reset(ResetReason.MESSAGE)
    aer = device.config.find(AdvancedErrorReporting)
    assert aer is not None
    assert client.read_config(aer.start + 4, 4) == (1 << 18).to_bytes(4, "little")
    assert client.read_config(aer.start + 0x1C, 4) == b"\x00\x00\x00\x40"


def test_interrupts_are_1_4_8_1_1(device: PciDevice) -> None:
    assert [irq.count for irq in device.irqs] == [1, 4, 8, 1, 1]


def test_regions_have_the_declared_sizes(device: PciDevice) -> None:
    assert [region.size for region in device.regions] == [4096, 4096, 1 << 20, 0, 4096, 256, 0, 4096, 0]


# -- BAR0 ---------------------------------------------------------------------------------------------------------


def test_identification_reads_test(client: LocalClient) -> None:
    client.write(0, 0, 0)
    assert client.read(0, 0) == 0x5453_4554


def test_scratch_registers_store_at_any_width(client: LocalClient) -> None:
    client.write(0, 4, 0x1122_3344)
    client.write(0, 5, 0xFF, 1)
    assert client.read(0, 4) == 0x1122_FF44
    client.write(0, 12, 0xAAAA_BBBB)
    assert client.read(0, 8, 8) == 0xAAAA_BBBB_0000_0000
    client.write(0, 8, 0x1, 8)
    assert client.read(0, 8) == 1


def test_every_register_of_bar0_runs_python(device: PciDevice) -> None:
    hooks = {row.name for row in device.bars[0].declared.rows if row.read_hook is not None}
    assert hooks == {row.name for row in device.bars[0].declared.rows}
    assert not any(row.read_hook or row.write_hook for row in device.bars[1].declared.rows)


def test_doorbell_counts(client: LocalClient) -> None:
    for value in (0, 1, 7):
        client.write(0, 0x10, value)
    assert (client.read(0, 0x14), client.read(0, 0x10)) == (3, 0)


def test_raise_takes_the_armed_index(client: LocalClient, device: PciDevice) -> None:
    client.arm(INTX)
    client.write(0, 0x18, 2)
    assert client.taken(INTX) == 1
    client.write(0, 0x1C, 0)
    client.write(0, 0x18, 2)
    assert client.taken(INTX) == 1
    client.arm(MSI, 4)
    client.write(0, 0x18, 2)
    client.arm(MSIX, 8)
    client.write(0, 0x18, 2)
    assert (client.taken(MSI, 2), client.taken(MSIX, 2)) == (1, 1)


def test_raise_of_err_and_req(client: LocalClient) -> None:
    client.arm(ERR)
    client.arm(REQ)
    client.write(0, 0x18, 0x100)
    client.write(0, 0x18, 0x101)
    assert (client.taken(ERR), client.taken(REQ)) == (1, 1)


def test_raise_of_a_vector_that_is_not_there_is_dropped(client: LocalClient) -> None:
    client.arm(MSIX, 8)
    client.write(0, 0x18, 8)
    assert client.read(4, 0x800, 8) == 0


def test_accesses_fail_with_the_errno_that_was_set(client: LocalClient) -> None:
    client.write(0, 0x40, 5)
    client.write(0, 0x3C, errno.EXDEV)
    assert refused(client, 0, 0x40, 4) == errno.EXDEV
    with pytest.raises(CommandError):
        client.write(0, 0x40, 6)
    client.write(0, 0x3C, 0)
    assert client.read(0, 0x40) == 5


def test_delay_is_at_most_three_seconds(client: LocalClient) -> None:
    client.write(0, 0x44, 5_000_000)
    assert client.read(0, 0x44) == 3_000_000


def test_undeclared_accesses_to_bar_0_1_and_5_are_counted_together(client: LocalClient, device: PciDevice) -> None:
    for bar in (0, 1, 5):
        client.write(bar, 0x80 if bar != 1 else 0x800, 1)
        assert client.read(bar, 0x80 if bar != 1 else 0x800) == 0
    client.read(4, 0x900)
    assert client.read(0, 0x4C) == 6
    device.reset(ResetReason.MESSAGE)
    client.enable()
    assert client.read(0, 0x4C) == 0


@pytest.mark.parametrize(("region", "offset", "width"), [(0, 0, 0), (0, 4093, 4), (2, 1 << 20, 1), (5, 256, 1)])
def test_access_outside_a_region_is_einval(client: LocalClient, region: int, offset: int, width: int) -> None:
    assert refused(client, region, offset, width) == errno.EINVAL


# -- BAR1 ---------------------------------------------------------------------------------------------------------


def test_plain_registers_have_their_policies(client: LocalClient) -> None:
    client.write(1, 0x0FC, 0xDEAD_BEEF)
    client.write(1, 0x103, 0)
    client.write(1, 0x200, 0x0000_00FF)
    client.write(1, 0x300, 0xFFFF_FFFF)
    client.write(1, 0x400, 5)
    client.write(1, 0x400, 5)
    values = [client.read(1, at) for at in (0x0FC, 0x100, 0x1FC, 0x200, 0x300, 0x304, 0x400)]
    assert values == [0xDEAD_BEEF, 0x0302_0100, 0xFFFE_FDFC, 0xFFFF_FF00, 0x12FF_56FF, 0x1234_5678, 2]


# -- BAR2 ---------------------------------------------------------------------------------------------------------


def test_memory_is_zero_except_the_text(client: LocalClient) -> None:
    table = client.backend.regions[2].table
    assert table is not None
    image = bytearray(1 << 20)
    image[0x80000:0x80010] = b"vfuserver-bar2!\0"
    assert table.read(0, 1 << 20) == image


def test_memory_is_mappable_in_two_areas(device: PciDevice) -> None:
    region = device.regions[2]
    assert region.areas == (MmapArea(0x1000, 0x3F000), MmapArea(0x80000, 0x80000))
    assert RegionFlags.MMAP in region.flags


def test_mappable_no_serves_without_mmap() -> None:
    device = load("testdev")(mappable="no")
    assert all(RegionFlags.MMAP not in region.flags for region in device.regions)
    assert [region.fd for region in device.regions] == [-1] * 9
    device.close()


def test_messages_and_mapping_see_the_same_bytes_and_reset_keeps_the_file(client: LocalClient) -> None:
    device = client.backend
    with mmap.mmap(device.regions[2].fd, 1 << 20) as view:
        client.write(2, 0x1001, 0x1122, 2)
        assert view[0x1000:0x1004] == b"\0\x22\x11\0"
        client.enable(0)
        client.write(2, 0x1001, 0, 2)
        assert client.read(2, 0x1001, 2) == 0xFFFF
        view[0x2000:0x2004] = b"mine"
        client.enable()
        assert client.read(2, 0x2000) == int.from_bytes(b"mine", "little")
        device.reset(ResetReason.MESSAGE)
        assert view[0x2000:0x2004] == bytes(4)


# -- BAR5 and the counter -----------------------------------------------------------------------------------------


def test_ports_store(client: LocalClient) -> None:
    client.write(5, 0, 0x12, 1)
    client.write(5, 4, 0x3456_789A)
    assert (client.read(5, 0, 1), client.read(5, 4)) == (0x12, 0x3456_789A)


def vendor_capability(client: LocalClient) -> int:
    at = client.read_config(0x34, 1)[0]
    while client.read_config(at, 1) != b"\x09":
        at = client.read_config(at + 1, 1)[0]
    return at


async def test_vendor_byte_8_starts_and_stops_the_counter(client: LocalClient) -> None:
    at = vendor_capability(client)
    assert client.read_config(at + 2, 1) == b"\x10"
    client.write_config(at + 8, b"\x01")
    await asyncio.sleep(0.05)
    client.write_config(at + 8, b"\x00")
    counted = client.read(2, 0x81000, 8)
    assert 20 <= counted <= 70
    await asyncio.sleep(0.01)
    assert client.read(2, 0x81000, 8) == counted


async def test_counter_stands_still_while_the_device_is_stopped(client: LocalClient) -> None:
    device = client.backend
    assert isinstance(device, PciDevice)
    client.write_config(vendor_capability(client) + 8, b"\x01")
    await asyncio.sleep(0.01)
    device.stop()
    counted = client.read(2, 0x81000, 8)
    await asyncio.sleep(0.02)
    assert client.read(2, 0x81000, 8) == counted > 0
    device.run()
    await asyncio.sleep(0.01)
    assert client.read(2, 0x81000, 8) > counted
