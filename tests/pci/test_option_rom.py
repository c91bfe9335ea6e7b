"""What firmware would say of an expansion ROM (PCI 3.0, 6.3.1)."""

import pytest

from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.option_rom import complaints
from vfuserver.testing.rom import rom_image

US = PciIdentity(vendor=0x1234, device=0x5678)


@pytest.mark.parametrize(
    "content",
    [
        rom_image(0x1234, 0x5678),
        rom_image(0x1234, 0x5678, last=False) + rom_image(0x1234, 0x5678, units=3),
        rom_image(0x1234, 0x1111, others=(0x2222, 0x5678)),
        rom_image(0x1234, 0x5678) + b"anything behind the last image",
    ],
)
def test_a_rom_for_this_function_has_no_complaints(content: bytes) -> None:
    assert complaints(content, US) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the image at 0x0 must start with 55 aa, not nothing"),
        (b"\x7fELF", "the image at 0x0 must start with 55 aa, not 7f 45"),
        (b"\x55\xaa", "what should be at 0x18 lies beyond the ROM's 0x2 bytes"),
        (rom_image(0x1234, 0x5678)[:0x20], "what should be at 0x1c lies beyond the ROM's 0x20 bytes"),
        (rom_image(0x1234, 0x5678).replace(b"PCIR", b"PCIE"), "must have PCIR at 0x1c, not 50 43 49 45"),
        (rom_image(0x8086, 0x5678), "the image at 0x0 is for 8086:5678, not 1234:5678"),
        (rom_image(0x1234, 0x1111, others=(0x2222,)), "is for 1234:1111, 1234:2222, not 1234:5678"),
        (rom_image(0x1234, 0x5678, last=False), "the image at 0x200 must start with 55 aa, not nothing"),
        (rom_image(0x1234, 0x5678, last=False) + rom_image(1, 2), "the image at 0x200 is for 0001:0002"),
        (rom_image(0x1234, 0x5678)[:0x2C] + bytes(2) + rom_image(0x1234, 0x5678)[0x2E:], "must have a length, not 0"),
    ],
)
def test_a_rom_that_firmware_would_not_run_says_what_disagrees(content: bytes, text: str) -> None:
    (complaint,) = complaints(content, US)
    assert text in complaint


def test_a_list_of_devices_that_does_not_end_ends() -> None:
    content = bytearray(rom_image(0x1234, 0x5678, others=(1,)))
    content[0x1C + 30 :] = b"\x01" * (len(content) - 0x1C - 30)
    (complaint,) = complaints(bytes(content), US)
    assert "lies beyond the ROM's 0x200 bytes" in complaint
