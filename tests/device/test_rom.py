"""The expansion ROM: region 6 and its base address register (S2.5, S2.14; S0.16: memory decoding)."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.session.harness import Wire, command
from vfuserver import CommandError, DeclarationError, PciDevice, PciIdentity, Rom, UsageError, describe, load
from vfuserver.testing.local_client import LocalClient
from vfuserver.testing.rom import rom_image
from vfuserver.vfio import PciRegion, RegionFlags

ROM_BAR = 0x30
INFO, READ, WRITE = command(5), command(9), command(10)
CONTENT = rom_image(0x1234, 0x5678, units=5)
SIZE = 4096
BOOTABLE = """
from vfuserver import PciDevice, PciIdentity, Rom

class Bootable(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x5678)
    rom = Rom("boot.rom")
"""


class Bare(PciDevice):
    """A device without a ROM of its own."""

    identity = PciIdentity(vendor=0x1234, device=0x5678)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "boot.rom"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def wire(file: Path) -> Iterator[Wire]:
    """A session with a device that has a ROM."""
    device = Bare(rom=Rom(file))
    made = Wire(device)
    made.negotiate()
    yield made
    made.close()
    device.close()


def enable(wire: Wire, value: int = 2) -> None:
    write = WRITE.request.build(offset=4, region=PciRegion.CONFIG, data=value.to_bytes(2, "little"))
    assert not wire.ask(WRITE, write).errno


def read(wire: Wire, offset: int, count: int) -> bytes:
    reply = wire.ask(READ, READ.request.pack(offset, PciRegion.ROM, count))
    assert not reply.errno
    return bytes(READ.reply.parse(reply.payload).data)


def test_region_6_is_the_file_and_ones_behind_it(wire: Wire) -> None:
    """S2.14: in one message, as QEMU reads it."""
    enable(wire)
    assert read(wire, 0, SIZE) == CONTENT.ljust(SIZE, b"\xff")
    assert read(wire, 0x1C, 4) == b"PCIR"


def test_region_info_says_read_only_and_nothing_to_map(wire: Wire) -> None:
    reply = wire.ask(INFO, INFO.request.pack(32, 0, PciRegion.ROM, 0, 0, 0))
    argsz, flags, index, cap_offset, size, offset = INFO.reply.unpack(reply.payload)
    assert (argsz, flags, index, cap_offset, size, offset) == (32, RegionFlags.READ, PciRegion.ROM, 0, SIZE, 0)
    assert reply.fds == ()


@pytest.mark.parametrize("offset", [0, SIZE - 4])
def test_a_write_is_einval_and_changes_nothing(wire: Wire, offset: int) -> None:
    """S2.14, as Linux's vfio-pci answers it."""
    enable(wire)
    request = WRITE.request.build(offset=offset, region=PciRegion.ROM, data=b"\0\0\0\0")
    assert wire.ask(WRITE, request).errno == errno.EINVAL
    assert read(wire, 0, SIZE) == CONTENT.ljust(SIZE, b"\xff")


@pytest.mark.parametrize(("offset", "count"), [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (1 << 63, 4), (0, 0)])
def test_a_read_beyond_it_is_einval(wire: Wire, offset: int, count: int) -> None:
    """S2.5."""
    enable(wire)
    assert wire.ask(READ, READ.request.pack(offset, PciRegion.ROM, count)).errno == errno.EINVAL


def test_it_answers_while_memory_decoding_is_on_whatever_its_own_bit_says(file: Path) -> None:
    """S0.16: all ones without COMMAND's memory bit. QEMU reads the region without looking at bit 0 of 0x30."""
    device = Bare(rom=Rom(file))
    access = device.regions[PciRegion.ROM].access
    assert access is not None
    with LocalClient(device) as client:
        assert access(0, 4, None) == b"\xff\xff\xff\xff"
        assert device.gate.refused == 1
        client.enable(0x0002)
        for bit in (0, 1):
            client.write_config(ROM_BAR, bytes([bit, 0, 0, 0xE0]))
            assert access(0, 4, None) == CONTENT[:4]
    device.close()


def test_its_register_is_sized_by_it(file: Path) -> None:
    """S2.14."""
    device = Bare(rom=str(file))
    device.config.write(ROM_BAR, 4, 0xFFFF_FFFF)
    assert device.config.read(ROM_BAR, 4) == 0xFFFF_F001
    device.close()


def test_without_one_region_6_is_absent() -> None:
    device = Bare()
    assert (device.regions[PciRegion.ROM].size, device.rom_image) == (0, None)
    device.config.write(ROM_BAR, 4, 0xFFFF_FFFF)
    assert device.config.read(ROM_BAR, 4) == 0
    device.close()


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [(1, None, 2048), (2048, None, 2048), (2049, None, 4096), (512, 1 << 16, 1 << 16), (1 << 20, None, 1 << 20)],
)
def test_size_is_the_smallest_power_of_two_or_what_was_said(
    tmp_path: Path, length: int, size: int | None, expected: int
) -> None:
    (tmp_path / "r").write_bytes(bytes(length))
    device = Bare(rom=Rom(tmp_path / "r", size))
    assert device.regions[PciRegion.ROM].size == expected
    device.close()


@pytest.mark.parametrize(
    ("length", "size", "text"),
    [
        (0, None, "must have at least one byte, not 0"),
        (4097, 4096, "must have at most 4096 bytes, not 4097"),
        (1, 1024, "size of the expansion ROM in bytes must be a power of two from 0x800 to 0x1000000, not 0x400"),
        (1, 3000, "must be a power of two"),
        ((16 << 20) + 1, None, "must be a power of two from 0x800 to 0x1000000, not 0x2000000"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, length: int, size: int | None, text: str) -> None:
    (tmp_path / "r").write_bytes(bytes(length))
    with pytest.raises(UsageError, match=text):
        Bare(rom=Rom(tmp_path / "r", size))


def test_a_file_that_cannot_be_read_leaves_no_descriptor_behind() -> None:
    """testdev has a BAR with a file behind it (the fixture counts descriptors)."""
    with pytest.raises(UsageError, match=r"none\.rom must be a file that can be read"):
        load("testdev")(rom="none.rom")


def test_a_class_names_a_file_beside_its_own(file: Path) -> None:
    """A class that derives from it elsewhere has that file too."""
    file.with_name("bootable.py").write_text(BOOTABLE)
    bootable = load(str(file.with_name("bootable.py")))

    class Derived(bootable):  # type: ignore[misc, valid-type]
        pass

    for one in (bootable, Derived):
        assert describe(one)["rom"] == {"size": SIZE, "file": str(file)}
    assert describe(Bare)["rom"] is None


@pytest.mark.parametrize(
    ("rom", "text"),
    [(Rom("none.rom"), r"Wrong\.rom: .*none\.rom must be a file that can be read: No such"), ("x", "must be a Rom")],
)
def test_a_class_with_a_rom_that_cannot_be_is_refused(rom: object, text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        type("Wrong", (Bare,), {"rom": rom})


def test_a_rom_for_another_function_is_served_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "other.rom").write_bytes(rom_image(0x8086, 0x1000))
    with caplog.at_level(logging.WARNING):
        device = Bare(rom=Rom(tmp_path / "other.rom"), name="mine")
    assert [record.getMessage() for record in caplog.records] == [
        f"mine: firmware will not run the expansion ROM {tmp_path}/other.rom: "
        "the image at 0x0 is for 8086:1000, not 1234:5678"
    ]
    device.close()


def test_a_rom_that_fits_is_no_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    Bare(rom=Rom(file)).close()
    assert caplog.records == []


def test_the_contract_refuses_writes_by_itself(file: Path) -> None:
    device = Bare(rom=Rom(file))
    access = device.regions[PciRegion.ROM].access
    assert access is not None
    with pytest.raises(CommandError, match="read-only"):
        access(0, 1, b"\0")
    device.close()
