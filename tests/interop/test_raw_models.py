"""Configuration space of shapes that testdev has not, by a client that knows only the PCI specifications."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import capabilities, model, one_device, refused
from tests.interop.models import VPD_CONTENT
from vfuserver.testing.rom import rom_image

VPD, MSI, VENDOR, AF = 0x03, 0x05, 0x09, 0x13
ADDRESS, DATA, F = 2, 4, 0x8000
ROM_BYTES = 4096
ONES = 0xFFFF_FFFF
COUNT, PIECE = 0, 4
STATUS, ERRORS, CAPABILITY_LIST = 6, 0xF900, 0x10
REPORT = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of the conventional device, with an expansion ROM of eight times 512 bytes."""
    folder = tmp_path_factory.mktemp("conventional")
    (folder / "rom").write_bytes(rom_image(0x1234, 0x0010, units=8))
    with one_device(folder, "--rom", str(folder / "rom"), device=model("Conventional")) as server:
        yield server.path


@pytest.fixture
def client(path: str) -> Iterator[raw.Client]:
    with raw.Client(path) as connection:
        connection.reset()
        connection.write(raw.CONFIG, 4, 7, 2)
        yield connection


def at(client: raw.Client, ident: int) -> int:
    return capabilities(client.read_bytes(raw.CONFIG, 0, 256))[ident]


# 256 bytes


def test_configuration_space_without_express_is_256_bytes(client: raw.Client) -> None:
    """S2.5, S2.11."""
    assert client.region_info(raw.CONFIG).size == 256


@pytest.mark.parametrize(("offset", "count"), [(0x100, 1), (0x100, 4), (0xFE, 4), (0, 257), (0xFFF, 1), (0xFF, 0)])
@pytest.mark.parametrize("writing", [False, True])
def test_access_beyond_256_bytes_is_einval(client: raw.Client, offset: int, count: int, writing: bool) -> None:
    """S2.5, S2.11: as a whole, without a partial effect."""
    before = client.read_bytes(raw.CONFIG, 0, 256)
    payload = raw.ACCESS.pack(offset, raw.CONFIG, count) + b"\xff" * count * writing
    with refused(errno.EINVAL):
        client.request(raw.REGION_WRITE if writing else raw.REGION_READ, payload)
    assert client.read_bytes(raw.CONFIG, 0, 256) == before


# BARs

BARS = [
    (0x10, 0x0000_0000, 0xC),
    (0x14, 0xFFFF_FFFE, 0),
    (0x18, 0xFFFF_FF80, 0),
    (0x1C, 0xFFFF_0000, 8),
    (0x20, 0xFFFF_FFFC, 1),
    (0x24, 0xFFFF_FF00, 1),
]
"""Where, address bits, kind: 8 GiB in two dwords, 128 bytes, 64 KiB prefetchable, ports of 4 and of 256 bytes."""


@pytest.mark.parametrize(("offset", "mask", "kind"), BARS, ids=lambda value: f"{value:#x}")
@pytest.mark.parametrize("width", [1, 2, 4])
def test_bar_of_any_kind_and_size_is_sized_by_any_width(
    client: raw.Client, offset: int, mask: int, kind: int, width: int
) -> None:
    """S2.13: 64-bit beyond 4 GiB, prefetchable, I/O of 4 to 256 bytes; two reads in a row are equal."""
    for where in range(offset, offset + 4, width):
        client.write_bytes(raw.CONFIG, where, b"\xff" * width)
    assert client.read(raw.CONFIG, offset) == client.read(raw.CONFIG, offset) == mask | kind


@pytest.mark.parametrize("enable", [0, 1])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_rom_is_sized_with_and_without_its_enable_bit(client: raw.Client, enable: int, width: int) -> None:
    """S2.14: bits 31:11 masked by the size, bit 0 kept, bits 10:1 zero."""
    asked = (ONES - 1 | enable).to_bytes(4, "little")
    for offset in range(0, 4, width):
        client.write_bytes(raw.CONFIG, 0x30 + offset, asked[offset : offset + width])
    assert client.read(raw.CONFIG, 0x30) == 0x1_0000_0000 - ROM_BYTES | enable
    assert client.region_info(raw.ROM).size == ROM_BYTES


# STATUS


@pytest.mark.parametrize("bit", [0x0100, 0x0800, 0x1000, 0x2000, 0x4000, 0x8000], ids=hex)
def test_status_bit_is_cleared_by_its_own_one_and_kept_by_zero(client: raw.Client, bit: int) -> None:
    """S2.17: what the model has set; a write of the whole word, or of the one byte that holds errors."""
    client.write(raw.BAR3, REPORT, ERRORS)
    client.write(raw.CONFIG, STATUS, 0, 2)
    assert client.read(raw.CONFIG, STATUS, 2) == ERRORS | CAPABILITY_LIST
    client.write(raw.CONFIG, STATUS, bit, 2)
    assert client.read(raw.CONFIG, STATUS, 2) == ERRORS & ~bit | CAPABILITY_LIST
    client.write(raw.CONFIG, STATUS + 1, 0xFF, 1)
    assert client.read(raw.CONFIG, STATUS, 2) == CAPABILITY_LIST


# Pieces


@pytest.mark.parametrize(
    ("offset", "count", "pieces"),
    [
        (4, 4, [(4, 4)]),
        (6, 2, [(6, 2)]),
        (5, 3, [(5, 1), (6, 2)]),
        (5, 1, [(5, 1)]),
        (6, 8, [(6, 2), (8, 4), (12, 2)]),
        (3, 13, [(3, 1), (4, 4), (8, 4), (12, 4)]),
    ],
)
def test_each_piece_of_a_write_reaches_the_model_once(
    client: raw.Client, offset: int, count: int, pieces: list[tuple[int, int]]
) -> None:
    """S2.4: the largest aligned pieces that cross no dword, in order, each in one call."""
    data = bytes(range(1, count + 1))
    client.write_bytes(raw.CONFIG, at(client, VENDOR) + offset, data)
    seen = [client.read(raw.BAR2, PIECE + 4 * n) for n in range(client.read(raw.BAR2, COUNT))]
    assert [(value >> 8, value & 0xFF) for value in seen] == pieces
    assert client.read_bytes(raw.CONFIG, at(client, VENDOR) + offset, count) == data


# VPD


@pytest.mark.parametrize("address", [0, 4, 12])
def test_vpd_read_fetches_four_bytes_and_sets_f(client: raw.Client, address: int) -> None:
    """S2.24."""
    vpd = at(client, VPD)
    client.write(raw.CONFIG, vpd + ADDRESS, address, 2)
    assert client.read(raw.CONFIG, vpd + ADDRESS, 2) == address | F
    assert client.read_bytes(raw.CONFIG, vpd + DATA, 4) == VPD_CONTENT[address : address + 4]


@pytest.mark.parametrize("address", [16, 0x7FFC, F | 0, F | 8, F | 16], ids=hex)
def test_vpd_that_fails_leaves_f_as_it_was_written(client: raw.Client, address: int) -> None:
    """S2.24: beyond the store, and a store to what is read-only; the write itself succeeds and the guest times out."""
    vpd = at(client, VPD)
    client.write_bytes(raw.CONFIG, vpd + DATA, b"mine")
    client.write(raw.CONFIG, vpd + ADDRESS, address, 2)
    assert client.read(raw.CONFIG, vpd + ADDRESS, 2) == address
    client.write(raw.CONFIG, vpd + ADDRESS, 0, 2)
    assert client.read_bytes(raw.CONFIG, vpd + DATA, 4) == VPD_CONTENT[:4]


@pytest.mark.parametrize(("offset", "acts"), [(ADDRESS, False), (ADDRESS + 1, True)])
def test_vpd_acts_on_its_upper_address_byte_only(client: raw.Client, offset: int, acts: bool) -> None:
    """S2.24."""
    vpd = at(client, VPD)
    client.write(raw.CONFIG, vpd + offset, 0, 1)
    assert client.read(raw.CONFIG, vpd + ADDRESS, 2) == (F if acts else 0)
    assert client.read_bytes(raw.CONFIG, vpd + DATA, 4) == (VPD_CONTENT[:4] if acts else bytes(4))


# AF


@pytest.mark.parametrize("width", [1, 2])
def test_af_flr_is_done_before_its_reply_and_reads_zero(client: raw.Client, width: int) -> None:
    """S2.26, S2.30: COMMAND, BARs and registers have their first values."""
    client.write(raw.BAR3, 0, 0x1234_5678)
    client.write(raw.CONFIG, 0x18, 0xFE00_0000)
    client.write(raw.CONFIG, at(client, AF) + 4, 1, width)
    assert client.read(raw.CONFIG, at(client, AF) + 4, 2) == 0
    assert client.read(raw.CONFIG, 4, 2) == 0
    assert client.read(raw.CONFIG, 0x18) == 0
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR3, 0) == 0


# MSI

LAYOUTS = {
    "Msi32": "05002500 fcffffff ffff",
    "Msi64": "0500a500 fcffffff ffffffff ffff",
    "Msi32Masked": "05002501 fcffffff ffff0000 0f000000 00000000",
    "Msi64Masked": "0500a501 fcffffff ffffffff ffff0000 0f000000 00000000",
}
"""What is there after ones: QSIZE clamped to 4 vectors, address bits 1:0 and pending zero, data of 16 bits."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_msi_layout_written_with_ones(tmp_path: Path, layout: str, width: int) -> None:
    """S2.19, S2.20, S2.9: each of the four layouts, and not a byte behind it."""
    expected = bytes.fromhex(LAYOUTS[layout])
    with one_device(tmp_path, device=model(layout)) as server, raw.Client(server.path) as client:
        where = at(client, MSI)
        for offset in range(0, 24, width):
            client.write_bytes(raw.CONFIG, where + offset, b"\xff" * width)
        assert client.read_bytes(raw.CONFIG, where, 24) == expected.ljust(24, b"\0")
        client.reset()
        assert client.read_bytes(raw.CONFIG, where + 4, 20) == bytes(20)
