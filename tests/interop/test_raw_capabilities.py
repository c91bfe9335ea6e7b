"""testdev's capabilities by a client that knows only the PCI specifications: masks, states, resets, and the edges."""

import errno
import struct
from itertools import product

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, capabilities, refused

PM, VENDOR, EXPRESS, MSI, MSIX = 0x01, 0x09, 0x10, 0x05, 0x11
AER, VSEC, DSN = 0x0001, 0x000B, 0x0003
D0, D3HOT = 0, 3
ONES = 0xFFFF_FFFF
SCRATCH, SCRATCH_VALUE = 4, 0x1234_5678


def at(client: raw.Client, ident: int) -> int:
    """Where a capability lies."""
    return capabilities(client.read_bytes(raw.CONFIG, 0, 256))[ident]


def extended(client: raw.Client) -> dict[int, int]:
    """Offsets of the extended capabilities by ID."""
    found, offset = {}, 0x100
    while offset:
        header = client.read(raw.CONFIG, offset, 4)
        found[header & 0xFFFF] = offset
        offset = header >> 20
    return found


# Edges

ACCESSES = [(0xFF, 1, 0), (0x100, 4, 0), (0xFFF, 1, 0), (0xFFC, 4, 0), (0xFFE, 4, errno.EINVAL)]
ACCESSES += [(0x1000, 1, errno.EINVAL), (0, 4097, errno.EINVAL), (0, 0, errno.EINVAL), ((1 << 64) - 1, 1, errno.EINVAL)]


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize(("offset", "count", "code"), ACCESSES)
def test_access_at_the_edges_of_configuration_space(
    client: raw.Client, offset: int, count: int, code: int, writing: bool
) -> None:
    """S2.5: 4096 bytes, and no partial effect beyond them."""
    before = client.read_bytes(raw.CONFIG, 0, 4096)
    data = before[offset : offset + count].ljust(count, b"\0") if writing else b""
    payload = raw.ACCESS.pack(offset, raw.CONFIG, count) + data
    command = raw.REGION_WRITE if writing else raw.REGION_READ
    if code:
        with refused(code):
            client.request(command, payload)
    else:
        assert len(client.request(command, payload).payload) == raw.ACCESS.size + (0 if writing else count)
    assert client.read_bytes(raw.CONFIG, 0, 4096) == before


# Power


@pytest.mark.parametrize(("asked", "reads"), [(0, 0), (1, 0), (2, 0), (3, 3)])
def test_power_state_reads_back_if_it_is_advertised(client: raw.Client, asked: int, reads: int) -> None:
    """S2.23: testdev has no D1 and no D2."""
    where = at(client, PM) + 4
    client.write(raw.CONFIG, where, asked, 2)
    assert client.read(raw.CONFIG, where, 2) & 3 == reads
    client.write(raw.CONFIG, where, D0, 2)


def test_memory_is_gone_in_d3hot_and_the_way_back_is_a_reset(client: raw.Client) -> None:
    """S2.23, S0.6: memory is not decoded below D0, whatever COMMAND says; NO_SOFT_RESET is 0."""
    where = at(client, PM) + 4
    client.write(raw.BAR0, SCRATCH, SCRATCH_VALUE)
    client.write(raw.CONFIG, where, D3HOT, 2)
    assert client.read(raw.CONFIG, 4, 2) & 2
    assert client.read(raw.BAR0, SCRATCH) == ONES
    client.write(raw.BAR0, SCRATCH, 1)
    client.write(raw.CONFIG, where, D0, 2)
    assert client.read(raw.CONFIG, 4, 2) == 0
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR0, SCRATCH) == 0


# PCI Express


def test_express_written_with_ones_takes_its_control_bits(client: raw.Client) -> None:
    """S2.25: DEVCTL but phantom functions, DEVCTL2 but ARI; capability, status and link registers stay."""
    where = at(client, EXPRESS)
    before = client.read_bytes(raw.CONFIG, where, 0x3C)
    for offset in range(4, 0x3C, 4):
        keep = 0x8000 if offset == 8 else 0  # FLR would be a reset
        client.write(raw.CONFIG, where + offset, ONES & ~keep)
    after = client.read_bytes(raw.CONFIG, where, 0x3C)
    changed = {n for n in range(0, 0x3C, 2) if before[n : n + 2] != after[n : n + 2]}
    assert changed == {8, 0x28}
    assert struct.unpack_from("<H", after, 8)[0] & 0x8200 == 0
    assert struct.unpack_from("<H", after, 8)[0] & 0x70E0 == 0x70E0
    assert struct.unpack_from("<H", after, 0x28)[0] & 0x20 == 0


@pytest.mark.parametrize("width", [1, 2, 4])
def test_flr_is_done_before_its_reply_and_reads_zero(client: raw.Client, width: int) -> None:
    """S2.26: by a write of any width; BARs, MSI, MSI-X and registers have their first values."""
    express, msi, msix = (at(client, ident) for ident in (EXPRESS, MSI, MSIX))
    client.write(raw.BAR0, SCRATCH, SCRATCH_VALUE)
    client.write(raw.CONFIG, 0x10, 0xFE00_0000)
    client.write(raw.CONFIG, msi + 2, 1, 2)
    client.write(raw.CONFIG, msix + 2, 0xC000, 2)
    control = client.read(raw.CONFIG, express + 8, 2) | 0x8000
    if width == 1:
        client.write(raw.CONFIG, express + 9, control >> 8, 1)
    else:
        client.write(raw.CONFIG, express + 8, control, width)
    assert not client.read(raw.CONFIG, express + 8, 2) & 0x8000
    assert client.read(raw.CONFIG, 4, 2) == 0
    assert client.read(raw.CONFIG, 0x10) == 0
    assert not client.read(raw.CONFIG, msi + 2, 2) & 1
    assert not client.read(raw.CONFIG, msix + 2, 2) & 0xC000
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR0, SCRATCH) == 0


# Extended

AER_WRITABLE = {0x08: ONES, 0x0C: ONES, 0x14: ONES, 0x18: 0x140}
"""Masks, severities and ECRC enables; which of the bits there are is the model's."""


def test_aer_written_with_ones_takes_masks_and_enables_only(client: raw.Client) -> None:
    """S2.27: the header, capabilities and the log are read-only; S2.30: a reset keeps sticky masks."""
    where = extended(client)[AER]
    before = [client.read(raw.CONFIG, where + offset) for offset in range(0, 0x2C, 4)]
    for offset in range(0, 0x2C, 4):
        client.write(raw.CONFIG, where + offset, ONES)
    after = [client.read(raw.CONFIG, where + offset) for offset in range(0, 0x2C, 4)]
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        assert (old ^ new) & ~AER_WRITABLE.get(4 * index, 0) == 0
    assert after[2] & ~before[2]
    client.reset()
    assert client.read(raw.CONFIG, where + 8) == after[2]  # sticky
    for index, value in enumerate(before):
        client.write(raw.CONFIG, where + 4 * index, value)


@pytest.mark.parametrize(("ident", "length"), [(VSEC, 16), (DSN, 12)])
def test_capability_without_writable_bits_stays(client: raw.Client, ident: int, length: int) -> None:
    """S2.27, S2.28: everything not listed is read-only, by any width; the write itself succeeds."""
    where = extended(client)[ident]
    before = client.read_bytes(raw.CONFIG, where, length)
    for width in (1, 2, 4):
        for offset in range(0, length, width):
            client.write(raw.CONFIG, where + offset, (1 << 8 * width) - 1, width)
    assert client.read_bytes(raw.CONFIG, where, length) == before


def test_vendor_bytes_take_what_the_model_says(client: raw.Client) -> None:
    """S2.28: one byte of testdev's capability is writable, the others are not."""
    where = at(client, VENDOR)
    before = client.read_bytes(raw.CONFIG, where, 16)
    client.write_bytes(raw.CONFIG, where, bytes([0x5A]) * 16)
    after = client.read_bytes(raw.CONFIG, where, 16)
    assert [n for n in range(16) if before[n] != after[n]] == [8]
    client.write(raw.CONFIG, where + 8, 0, 1)


# Features

GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18


OPERATIONS = {1: GET, 2: GET | SET, 6: SET, 7: SET, 8: GET, 9: GET, 12: SET}
"""Of the features that testdev has: migration, and the log of writes."""
HARMLESS = {(1, GET), (2, GET), (9, GET), (12, SET)}
"""What succeeds with data of zeros."""


@pytest.mark.parametrize("feature", [1, 2, 6, 7, 8, 9, 11, 12, 0xFFFF])
@pytest.mark.parametrize("flags", [sum(bits) for bits in product((0, GET), (0, SET), (0, PROBE))])
def test_feature_with_every_combination_of_flags(client: raw.Client, feature: int, flags: int) -> None:
    """S0.3: GET with SET needs PROBE; a feature that there is not is ENOTTY, also under PROBE, and an operation that
    it lacks is EINVAL, likewise; so is a log of pages of no bytes, one that was not started, and the state ERROR."""
    payload = struct.pack("=II", 40, flags | feature) + bytes(32)
    if flags & PROBE and feature in OPERATIONS and not flags & ~(PROBE | OPERATIONS[feature]):
        assert client.request(raw.DEVICE_FEATURE, payload).payload == payload[:8]
        return
    if (feature, flags) in HARMLESS:
        assert client.request(raw.DEVICE_FEATURE, payload).payload[4:8] == payload[4:8]
        return
    with refused(errno.EINVAL if flags == GET | SET or feature in OPERATIONS else errno.ENOTTY):
        client.request(raw.DEVICE_FEATURE, payload)


def test_device_is_what_it_was(server: Server, client: raw.Client) -> None:
    """S2.30: after all of this a reset gives the image of the other, untouched device."""
    client.reset()
    with raw.Client(server.paths[1]) as other:
        other.reset()
        assert client.read_bytes(raw.CONFIG, 0, 4096) == other.read_bytes(raw.CONFIG, 0, 4096)
