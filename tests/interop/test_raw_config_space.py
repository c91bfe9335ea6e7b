"""testdev's configuration space and what COMMAND decides, by a client that knows only the specification."""

import errno
import struct
import time

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import capabilities, eventually, refused

SIGNATURE = b"vfuserver-bar2!\0"


def test_config_space_in_one_read_is_the_identity_of_testdev(client: raw.Client) -> None:
    """Field-notes C.1: QEMU reads 4096 bytes at once; testdev.md: identity, type bits of the BARs."""
    config = client.read_bytes(raw.CONFIG, 0, 4096)
    assert struct.unpack_from("<HHH", config) == (0x1234, 0x7E57, 7)
    assert config[8:12] == b"\x01\0\0\xff"
    assert config[0x0E] == 0
    assert struct.unpack_from("<6I", config, 0x10) == (0, 0, 0xC, 0, 0, 1)
    assert struct.unpack_from("<HH", config, 0x2C) == (0x1234, 1)
    assert struct.unpack_from("<I", config, 0x30) == (0,)
    assert config[0x3D] == 1
    assert config[6] & 0x10


def test_config_space_in_one_read_is_what_dwords_show(client: raw.Client) -> None:
    """S2.4: equals concatenated reads of every width."""
    whole = client.read_bytes(raw.CONFIG, 0, 4096)
    assert b"".join(client.read_bytes(raw.CONFIG, at, 4) for at in range(0, 4096, 4)) == whole
    assert b"".join(client.read_bytes(raw.CONFIG, at, 1) for at in range(256)) == whole[:256]
    assert client.read_bytes(raw.CONFIG, 1, 7) == whole[1:8]


def test_config_space_has_the_capabilities_of_testdev(client: raw.Client) -> None:
    """testdev.md: PM, MSI 64-bit with masks and 4 vectors, MSI-X of 8 in BAR4, PCIe endpoint, vendor 16 bytes, DSN."""
    config = client.read_bytes(raw.CONFIG, 0, 4096)
    found = capabilities(config)
    assert set(found) == {1, 5, 9, 0x10, 0x11}
    assert struct.unpack_from("<H", config, found[5] + 2)[0] & 0x1FE == 0x184
    assert struct.unpack_from("<HII", config, found[0x11] + 2) == (7, 4, 0x804)
    assert config[found[0x10] + 2] & 0xF0 == 0
    assert config[found[9] + 2] == 16
    assert struct.unpack_from("<I", config, 0x100)[0] & 0xFFFFF == 0x10003
    assert struct.unpack_from("<Q", config, 0x104) == (0x0123456789ABCDEF,)


BARS = [(0x10, 0xFFFFF000, 0), (0x14, 0xFFFFF000, 0), (0x18, 0xFFF00000, 12), (0x1C, 0xFFFFFFFF, 0)]
BARS += [(0x20, 0xFFFFF000, 0), (0x24, 0xFFFFFF00, 1), (0x30, 0, 0)]


@pytest.mark.parametrize(("offset", "mask", "kind"), BARS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_bar_sized_by_any_width_keeps_its_mask(
    client: raw.Client, offset: int, mask: int, kind: int, width: int
) -> None:
    """S2.13, S2.14: all-ones sizing in pieces; reads have no side effect; an absent ROM reads 0."""
    for at in range(offset, offset + 4, width):
        client.write_bytes(raw.CONFIG, at, b"\xff" * width)
    assert client.read(raw.CONFIG, offset) == client.read(raw.CONFIG, offset) == mask | kind
    client.write(raw.CONFIG, offset, 0x12345670)
    assert client.read(raw.CONFIG, offset) == 0x12345670 & mask | kind


def test_header_written_with_ones_changes_only_what_is_writable(client: raw.Client) -> None:
    """S2.15, S2.17, S2.18: COMMAND 0x0547, cache line, latency, BIST, INTERRUPT_LINE; STATUS write one to clear."""
    client.write(raw.CONFIG, 4, 0, 2)
    before = client.read_bytes(raw.CONFIG, 0, 0x40)
    client.write_bytes(raw.CONFIG, 0, b"\xff" * 0x10)
    client.write_bytes(raw.CONFIG, 0x28, b"\xff" * 8)
    client.write_bytes(raw.CONFIG, 0x34, b"\xff" * 12)
    after = client.read_bytes(raw.CONFIG, 0, 0x40)
    expected = bytearray(before)
    expected[4:6] = (0x0547).to_bytes(2, "little")
    expected[0x0C], expected[0x0D], expected[0x0F], expected[0x3C] = 0xFF, 0xFF, 0xFF, 0xFF
    assert after.hex(" ", 4) == expected.hex(" ", 4)


def test_vendor_capability_byte_8_when_one_counts_in_bar2(client: raw.Client) -> None:
    """testdev.md, Migration: byte 8 = 1 makes 8 bytes at BAR2+0x81000 grow every millisecond, 0 stops it."""
    at = capabilities(client.read_bytes(raw.CONFIG, 0, 256))[9] + 8
    start = client.read(raw.BAR2, 0x81000, 8)
    began = time.monotonic()
    client.write(raw.CONFIG, at, 1, 1)
    assert eventually(lambda: client.read(raw.BAR2, 0x81000, 8) >= start + 20)
    client.write(raw.CONFIG, at, 0, 1)
    stopped = client.read(raw.BAR2, 0x81000, 8)
    assert stopped - start <= (time.monotonic() - began) * 1000 + 2
    time.sleep(0.02)
    assert client.read(raw.BAR2, 0x81000, 8) == stopped


# COMMAND


@pytest.mark.parametrize("region", [raw.BAR0, raw.BAR1, raw.BAR2, raw.BAR4])
def test_memory_bar_while_disabled_reads_ones_and_drops_writes(client: raw.Client, region: int) -> None:
    """S0.16: all-ones, no effect, nothing reaches the model."""
    before = client.read_bytes(region, 0, 64)
    client.write(raw.CONFIG, 4, 5, 2)
    assert client.read_bytes(region, 0, 64) == b"\xff" * 64
    assert client.read_bytes(region, 0x7FE, 3) == b"\xff" * 3
    client.write_bytes(region, 0, b"\x5a" * 64)
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read_bytes(region, 0, 64) == before
    assert client.read(raw.BAR0, 0x4C) == 0


def test_io_bar_while_disabled_reads_ones_and_drops_writes(client: raw.Client) -> None:
    """S0.16: I/O BARs follow COMMAND bit 0."""
    client.write(raw.BAR5, 4, 0x1234)
    client.write(raw.CONFIG, 4, 6, 2)
    assert client.read(raw.BAR5, 4) == 0xFFFFFFFF
    client.write(raw.BAR5, 4, 5)
    assert client.read(raw.BAR0, 0) == 0x54534554
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR5, 4) == 0x1234


def test_bounds_while_disabled_are_still_einval(client: raw.Client) -> None:
    """S2.5 has no exception for a disabled BAR."""
    client.write(raw.CONFIG, 4, 0, 2)
    with refused(errno.EINVAL):
        client.read(raw.BAR0, 4096)
