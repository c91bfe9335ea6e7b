"""lspci, setpci and the kernel's resets on our configuration spaces: testdev and a conventional card on root ports."""

import logging
import re
from collections.abc import AsyncIterator
from itertools import dropwhile, islice, takewhile
from typing import Any

import pytest
import pytest_asyncio

from tests.system.rig import AF_CARD, TESTDEV, Rig, rig
from vfuserver import (
    AdvancedErrorReporting,
    CorrectableError,
    DeviceSerialNumber,
    Msi,
    PciExpress,
    PowerManagement,
)
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.header import COMMAND, Status
from vfuserver.pci.lspci import render

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module")]

DECODE_AND_MASTER = 7
COUNTER = 0x81000
HEADER = [f"{offset:x}.l" for offset in range(0, 0x40, 4)]
SIZES = {"b": 1, "w": 2, "l": 4}
CAPABILITIES: dict[str, type[AnyCapability]] = {
    "CAP_PM": PowerManagement,
    "CAP_MSI": Msi,
    "CAP_EXP": PciExpress,
    "ECAP_AER": AdvancedErrorReporting,
    "ECAP_DSN": DeviceSerialNumber,
}
OF_THE_KERNEL = re.compile(r"\t(Physical Slot|IOMMU group|Kernel driver in use): .*")
"""Lines that lspci takes from sysfs, so that a dump cannot have them."""
VPD = "Vital Product Data"
SIZE_OR_IRQ = re.compile(r" \[size=\w+\]|(?<=routed to IRQ) \d+")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def booted() -> AsyncIterator[Rig]:
    async with rig("q35-hotplug", {TESTDEV: {}, AF_CARD: {}}, pciutils=True) as running:
        yield running
        assert running.guest.qemu_log == ""


def of_the_device(lines: list[str]) -> list[str]:
    """lspci's lines without the address and without what only the kernel knows, such as the store behind VPD."""
    store = set(of_the_store(lines))
    return [SIZE_OR_IRQ.sub("", line) for line in lines[1:] if line not in store and not OF_THE_KERNEL.fullmatch(line)]


def of_the_store(lines: list[str]) -> list[str]:
    """What lspci says of VPD's store, from the line of the capability to the next."""
    behind = dropwhile(lambda line: not line.endswith(VPD), lines)
    return list(takewhile(lambda line: line.startswith("\t\t"), islice(behind, 1, None)))


async def both_decoded(rig: Rig, device: str) -> tuple[list[str], list[str]]:
    """What the guest sees, and what `vfuserver probe --config-space` shows at this moment (tests/cli prove that)."""
    image = rig.devices[device].config.image
    return of_the_device(await rig.lspci(device)), of_the_device(await rig.lspci_of(render(image)))


@pytest.mark.parametrize("device", [TESTDEV, AF_CARD])
async def test_lspci_in_the_guest_agrees_with_the_dump_behind_a_root_port(rig: Rig, device: str) -> None:
    """S2.11: nothing is hidden, added or changed there; even the BARs are those that the guest has written."""
    seen, ours = await both_decoded(rig, device)
    assert seen == ours
    assert len([line for line in seen if line.startswith("\tCapabilities: [")]) == len(
        rig.devices[device].config.capabilities
    )


async def test_lspci_decodes_vital_product_data(rig: Rig) -> None:
    """S2.24: the guest's kernel fetches it, four bytes at a time, and finds its checksum good."""
    assert [line.strip() for line in of_the_store(await rig.lspci(AF_CARD))] == [
        "Product Name: AF card",
        "Read-only fields:",
        "[PN] Part number: vfu-af1",
        "[RV] Reserved: checksum good, 0 byte(s) reserved",
        "End",
    ]


async def test_setpci_finds_the_size_of_every_bar(rig: Rig) -> None:
    """S2.13, S2.14: the 64-bit one takes two slots; absent ones and the ROM read zero; the server has the same bits."""
    slots = [f"{offset:x}.l" for offset in (0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30)]
    command, *addresses = await rig.setpci(TESTDEV, "COMMAND", *slots)
    await rig.setpci(TESTDEV, "COMMAND=0", *(f"{slot}=ffffffff" for slot in slots))
    masks = await rig.setpci(TESTDEV, *slots)
    config = rig.devices[TESTDEV].config
    of_the_server = [f"{config.read(int(slot.removesuffix('.l'), 16), 4):08x}" for slot in slots]
    restored = (f"{slot}={address}" for slot, address in zip(slots, addresses, strict=True))
    await rig.setpci(TESTDEV, *restored, f"COMMAND={command}")
    assert masks == ["fffff000", "fffff000", "fff0000c", "ffffffff", "fffff000", "ffffff01", "00000000"]
    assert of_the_server == masks
    assert await rig.setpci(TESTDEV, *slots) == addresses


@pytest.mark.parametrize(
    ("register", "written", "stored"),
    [
        ("04.w", "ffff", "0547"),
        ("04.w", "0007", "0007"),
        ("0c.b", "10", "10"),
        ("0d.b", "40", "40"),
        ("3c.b", "07", "07"),
        ("3d.b", "04", "01"),
        ("00.w", "ffff", "1234"),
        ("CAP_EXP+8.w", "7bff", "79ff"),
        ("CAP_EXP+8.w", "281f", "281f"),
        ("CAP_EXP+10.w", "ffff", "0000"),
        ("CAP_PM+2.w", "ffff", "0003"),
        ("CAP_MSI+10.l", "ffffffff", "0000000f"),
        ("CAP_MSI+10.l", "00000000", "00000000"),
        ("ECAP_AER+14.l", "00000000", "00000000"),
        ("ECAP_DSN+4.l", "00000000", "89abcdef"),
    ],
)
async def test_setpci_writes_what_the_masks_let_through(rig: Rig, register: str, written: str, stored: str) -> None:
    """S2.2, S2.15, S2.18, S2.25: the guest reads back what the server holds, bit by bit."""
    await rig.setpci(TESTDEV, f"{register}={written}")
    assert await rig.setpci(TESTDEV, register) == [stored]
    assert on_the_server(rig, register) == stored


def on_the_server(rig: Rig, register: str) -> str:
    """The same register in the server's own bytes, where setpci's names of capabilities say; no access by the guest."""
    name, _, width = register.rpartition(".")
    capability, _, offset = name.rpartition("+")
    config = rig.devices[TESTDEV].config
    found = config.find(CAPABILITIES[capability]) if capability else config.header
    assert found is not None
    size = SIZES[width]
    return f"{config.read(found.start + int(offset, 16), size):0{2 * size}x}"


async def test_setpci_clears_status_bits_by_writing_ones(rig: Rig) -> None:
    """S2.17: only those that are written."""
    config = rig.devices[TESTDEV].config
    config.report_errors(Status.RECEIVED_MASTER_ABORT | Status.DETECTED_PARITY_ERROR)
    assert await rig.setpci(TESTDEV, "STATUS") == ["a010"]
    await rig.setpci(TESTDEV, "STATUS=2000")
    assert await rig.setpci(TESTDEV, "STATUS") == ["8010"]
    await rig.setpci(TESTDEV, "STATUS=ffff")
    assert await rig.setpci(TESTDEV, "STATUS") == ["0010"]
    assert config.read(COMMAND, 4) >> 16 == Status.CAPABILITIES_LIST


async def test_error_of_the_model_is_shown_by_lspci_and_cleared_by_setpci(rig: Rig) -> None:
    """S2.25, S2.27: DEVSTA and the correctable status of AER. A correctable error stops no machine."""
    rig.devices[TESTDEV].report_error(CorrectableError.BAD_TLP)
    text = "\n".join(await rig.lspci(TESTDEV))
    assert "DevSta:\tCorrErr+ " in text
    assert "CESta:\tRxErr- BadTLP+ " in text
    await rig.setpci(TESTDEV, "CAP_EXP+a.w=1", "ECAP_AER+10.l=40")
    seen, ours = await both_decoded(rig, TESTDEV)
    assert seen == ours
    assert "DevSta:\tCorrErr- " in "\n".join(seen)
    assert "CESta:\tRxErr- BadTLP- " in "\n".join(seen)


async def test_setpci_of_the_vendor_s_byte_reaches_the_model(rig: Rig) -> None:
    """S2.28: byte 8 starts and stops testdev's counter in BAR2, which the guest then reads."""
    device: Any = rig.devices[TESTDEV]
    await rig.setpci(TESTDEV, "COMMAND=7", "CAP_VNDR+8.b=1")
    assert await rig.setpci(TESTDEV, "CAP_VNDR+8.b") == ["01"]
    while not await rig.read(TESTDEV, 2, COUNTER, 8):
        assert device.tick.armed
    await rig.setpci(TESTDEV, "CAP_VNDR+8.b=0")
    assert not device.tick.armed
    assert await rig.read(TESTDEV, 2, COUNTER, 8) == int.from_bytes(device.memory[COUNTER : COUNTER + 8], "little")


@pytest.mark.parametrize(
    ("device", "method", "reason", "scratch", "own_byte"),
    [
        (TESTDEV, "flr", "function level reset", 0x04, "CAP_VNDR+8.b"),
        (TESTDEV, "pm", "D3hot to D0", 0x04, "CAP_VNDR+8.b"),
        (AF_CARD, "af_flr", "function level reset", 0x00, "CAP_VNDR+3.b"),
    ],
)
async def test_reset_by_each_method_powers_on_and_the_kernel_restores(
    rig: Rig, caplog: pytest.LogCaptureFixture, device: str, method: str, reason: str, scratch: int, own_byte: str
) -> None:
    """S2.23, S2.26: one reset, of the right reason. What the kernel has saved it writes again (COMMAND, the cache line
    size); what it does not know is as at power-on: the model's registers and the vendor's byte. BARs stay 0 in the
    server: QEMU has kept its own, so the kernel finds them unchanged and does not write them."""
    place = f"/sys/bus/pci/devices/{rig.bdf(device)}"
    await rig.setpci(device, f"COMMAND={DECODE_AND_MASTER:x}", "CACHE_LINE_SIZE=10", f"{own_byte}=1")
    await rig.write(device, 0, scratch, 0x1234)
    before = await rig.setpci(device, *HEADER)
    await rig.guest.check(f"echo {method} > {place}/reset_method")
    assert await rig.guest.check(f"cat {place}/reset_method") == method
    with caplog.at_level(logging.INFO, logger="vfuserver.device"):
        await rig.guest.check(f"echo 1 > {place}/reset")
    assert [record.message for record in caplog.records] == [f"{device}: reset ({reason})"]
    assert await rig.setpci(device, *HEADER, own_byte) == [*before, "00"]
    assert await rig.read(device, 0, scratch) == 0
    seen, ours = await both_decoded(rig, device)
    assert without_bars(seen) == without_bars(ours)
    assert rig.devices[device].config.read(COMMAND, 2) == int(before[1], 16) & 0xFFFF


def without_bars(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("\tRegion")]
