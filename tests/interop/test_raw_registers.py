"""Every register of testdev as testdev.md describes it, by region messages."""

import errno
import time

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, refused

SCRATCH, SCRATCH64, DOORBELL, DOORBELLS = 0x04, 0x08, 0x10, 0x14
ERRNO, MAY_FAIL, DELAY, SLOW, UNDECLARED = 0x3C, 0x40, 0x44, 0x48, 0x4C


# BAR0


def test_identification_when_read_and_written_is_constant(client: raw.Client) -> None:
    """testdev.md 0x00: RO."""
    client.write(raw.BAR0, 0, 0xFFFFFFFF)
    assert client.read_bytes(raw.BAR0, 0, 4) == b"TEST"
    assert [client.read_bytes(raw.BAR0, at, 1) for at in range(4)] == [b"T", b"E", b"S", b"T"]
    assert client.read_bytes(raw.BAR0, 2, 2) == b"ST"
    assert client.read(raw.BAR0, UNDECLARED) == 0


@pytest.mark.parametrize(("offset", "width"), [(SCRATCH, 4), (SCRATCH64, 8), (0x20, 8), (0x28, 8), (0x30, 4)])
def test_register_written_narrowly_keeps_its_other_bytes(client: raw.Client, offset: int, width: int) -> None:
    """testdev.md: aligned accesses of 1, 2, 4 and 8 bytes; a narrow write is merged into the stored value."""
    whole = bytearray(range(0x11, 0x11 + width))
    client.write_bytes(raw.BAR0, offset, whole)
    for piece in (1, 2, 4, 8)[: width.bit_length()]:
        for at in range(0, width, piece):
            whole[at : at + piece] = bytes(0x80 + at + n for n in range(piece))
            client.write_bytes(raw.BAR0, offset + at, whole[at : at + piece])
            assert client.read_bytes(raw.BAR0, offset, width) == whole
            assert client.read_bytes(raw.BAR0, offset + at, piece) == whole[at : at + piece]


def test_scratch64_written_by_halves_takes_each_at_once(client: raw.Client) -> None:
    """testdev.md 0x08: its two 4-byte halves may be written apart."""
    client.write(raw.BAR0, SCRATCH64 + 4, 0x89ABCDEF)
    assert client.read(raw.BAR0, SCRATCH64, 8) == 0x89ABCDEF00000000
    client.write(raw.BAR0, SCRATCH64, 0x01234567)
    assert client.read(raw.BAR0, SCRATCH64, 8) == 0x89ABCDEF01234567


def test_access_over_several_registers_is_cut(client: raw.Client) -> None:
    """testdev.md: longer or unaligned accesses are cut into the largest aligned pieces."""
    client.write_bytes(raw.BAR0, 0, bytes(range(16)))
    assert client.read_bytes(raw.BAR0, 0, 16) == b"TEST" + bytes(range(4, 16))
    client.write_bytes(raw.BAR0, 5, b"abcdefg")
    assert client.read_bytes(raw.BAR0, 4, 12) == b"\x04abcdefg\x0c\x0d\x0e\x0f"
    assert client.read_bytes(raw.BAR0, 3, 7) == b"T\x04abcde"
    assert client.read(raw.BAR0, UNDECLARED) == 0


@pytest.mark.parametrize(
    ("offset", "count", "rings"), [(0x10, 1, 1), (0x10, 2, 1), (0x12, 2, 1), (0x10, 4, 1), (0x11, 3, 2), (0x0C, 16, 1)]
)
def test_doorbell_when_written_counts_each_access(client: raw.Client, offset: int, count: int, rings: int) -> None:
    """testdev.md 0x10: each write adds 1; an unaligned one is as many as its pieces."""
    client.write_bytes(raw.BAR0, offset, bytes(count))
    assert client.read(raw.BAR0, DOORBELLS) == rings
    client.write(raw.BAR0, DOORBELLS, 77)
    assert client.read(raw.BAR0, DOORBELLS) == rings


def test_doorbell_when_posted_in_one_write_counts_all(client: raw.Client) -> None:
    """Issue 2: posted writes in one batch."""
    client.raw(b"".join(posted(client, raw.BAR0, DOORBELL) for _ in range(256)))
    assert client.read(raw.BAR0, DOORBELLS) == 256


def posted(client: raw.Client, region: int, offset: int) -> bytes:
    """Bytes of a posted 4-byte write."""
    return client.message(raw.REGION_WRITE, raw.ACCESS.pack(offset, region, 4) + bytes(4), raw.NO_REPLY)


def test_undeclared_offsets_when_accessed_are_counted_together(client: raw.Client) -> None:
    """testdev.md: reads zero, drops writes, and BAR0, BAR1 and BAR5 share the count; BAR2 has no undeclared offset."""
    places = [(raw.BAR0, 0x50, 4), (raw.BAR0, 0xFFF, 1), (raw.BAR1, 0x404, 4), (raw.BAR1, 0xFFE, 2)]
    places += [(raw.BAR5, 8, 4), (raw.BAR5, 1, 1), (raw.BAR5, 0xFF, 1)]
    for count, (region, offset, width) in enumerate(places):
        client.write(region, offset, 0xFF, width)
        assert client.read(region, offset, width) == 0
        assert client.read(raw.BAR0, UNDECLARED) == 2 * count + 2
    client.write(raw.BAR2, 0x40000, 1)
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR0, UNDECLARED) == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.EPERM, errno.EBUSY, errno.ENOSPC])
def test_register_that_may_fail_fails_with_the_errno_asked_for(client: raw.Client, code: int) -> None:
    """testdev.md 0x3c, 0x40: an error reply is the header alone, and the server lives on."""
    client.write(raw.BAR0, MAY_FAIL, 0x11)
    client.write(raw.BAR0, ERRNO, code)
    with refused(code):
        client.read(raw.BAR0, MAY_FAIL)
    with refused(code):
        client.write(raw.BAR0, MAY_FAIL, 0x22)
    client.post(raw.BAR0, MAY_FAIL, 0x33)
    assert client.read(raw.BAR0, ERRNO) == code
    client.write(raw.BAR0, ERRNO, 0)
    assert client.read(raw.BAR0, MAY_FAIL) == 0x11
    client.write(raw.BAR0, MAY_FAIL, 0x44)
    assert client.read(raw.BAR0, MAY_FAIL) == 0x44


def test_slow_register_without_delay_is_a_plain_one(client: raw.Client) -> None:
    """testdev.md 0x44, 0x48."""
    client.write(raw.BAR0, SLOW, 0xABCD1234)
    assert client.read(raw.BAR0, SLOW) == 0xABCD1234
    assert client.read(raw.BAR0, SLOW + 2, 2) == 0xABCD


def test_slow_register_while_it_waits_lets_others_be_served(server: Server, client: raw.Client) -> None:
    """testdev.md 0x48: other connections are served meanwhile, this one's later commands wait (S1.11)."""
    client.write(raw.BAR0, SLOW, 7)
    client.write(raw.BAR0, DELAY, 300_000)
    began = time.monotonic()
    slow = client.send(raw.REGION_READ, raw.ACCESS.pack(SLOW, raw.BAR0, 4))
    later = client.send(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR0, 4))
    with raw.Client(server.paths[1]) as other:
        for _ in range(50):
            other.read_bytes(raw.CONFIG, 0, 4)
        assert time.monotonic() - began < 0.25
    assert client.quiet()
    assert client.reply(slow).payload[16:] == b"\7\0\0\0"
    assert 0.29 < time.monotonic() - began < 1
    assert client.reply(later).payload[16:] == b"TEST"


def test_slow_register_with_many_accesses_answers_in_order(client: raw.Client) -> None:
    """S1.11: commands of one connection complete in arrival order."""
    client.write(raw.BAR0, DELAY, 2000)
    idents = [client.send(raw.REGION_READ, raw.ACCESS.pack(SLOW * (n % 2), raw.BAR0, 4)) for n in range(40)]
    assert [client.receive().ident for _ in idents] == idents


def test_slow_register_when_written_takes_the_delay_and_the_value(client: raw.Client) -> None:
    """testdev.md 0x48: RW."""
    client.write(raw.BAR0, DELAY, 30_000)
    began = time.monotonic()
    client.write(raw.BAR0, SLOW, 0x99)
    assert time.monotonic() - began >= 0.029
    client.post(raw.BAR0, SLOW, 0xAA)
    assert client.read(raw.BAR0, SLOW) == 0xAA


def test_slow_register_while_it_waits_survives_a_disconnect(server: Server) -> None:
    """Issue 2: jobs' life is defined; a disconnect in the wait leaves a working device."""
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.write(raw.BAR0, DELAY, 50_000)
        client.send(raw.REGION_READ, raw.ACCESS.pack(SLOW, raw.BAR0, 4))
    with raw.Client(server.path) as client:
        client.write(raw.BAR0, DELAY, 0)
        assert client.read(raw.BAR0, SLOW) == 0
        time.sleep(0.06)
        assert client.read(raw.BAR0, 0) == 0x54534554


# BAR1


def test_plain_words_when_written_by_any_width_hold_the_bytes(client: raw.Client) -> None:
    """testdev.md BAR1 0x000-0x0ff: RW, any width."""
    data = bytes((n * 7) & 0xFF for n in range(256))
    client.write_bytes(raw.BAR1, 0, data)
    assert client.read_bytes(raw.BAR1, 0, 256) == data
    for width in (1, 2, 4, 8):
        client.write_bytes(raw.BAR1, 0x40, bytes(16))
        client.write_bytes(raw.BAR1, 0x40 + width, b"\xff" * width)
        assert client.read_bytes(raw.BAR1, 0x40, 16).count(0xFF) == width
        assert client.read(raw.BAR1, 0x40 + width, width) == (1 << 8 * width) - 1
    client.write_bytes(raw.BAR1, 0x83, b"unaligned")
    assert client.read_bytes(raw.BAR1, 0x83, 9) == b"unaligned"


def test_plain_constants_are_their_offsets(client: raw.Client) -> None:
    """testdev.md BAR1 0x100-0x1ff: RO."""
    client.write_bytes(raw.BAR1, 0x100, b"\x5a" * 256)
    assert client.read_bytes(raw.BAR1, 0x100, 256) == bytes(range(256))
    assert client.read(raw.BAR1, 0x1F8, 8) == 0xFFFEFDFCFBFAF9F8


def test_plain_events_are_cleared_by_ones(client: raw.Client) -> None:
    """testdev.md BAR1 0x200-0x2ff: write 1 to clear; bytes of a narrow write that are not written stay."""
    assert client.read_bytes(raw.BAR1, 0x200, 256) == b"\xff" * 256
    client.write(raw.BAR1, 0x204, 0x0000FF01)
    assert client.read(raw.BAR1, 0x204) == 0xFFFF00FE
    client.write(raw.BAR1, 0x207, 0x0F, 1)
    assert client.read(raw.BAR1, 0x204) == 0xF0FF00FE
    client.write(raw.BAR1, 0x206, 0x0001, 2)
    assert client.read(raw.BAR1, 0x204) == 0xF0FE00FE
    client.write(raw.BAR1, 0x204, 0)
    assert client.read(raw.BAR1, 0x204) == 0xF0FE00FE
    assert client.read(raw.BAR1, 0x200) == client.read(raw.BAR1, 0x208) == 0xFFFFFFFF


def test_plain_masked_takes_only_the_masks_bits(client: raw.Client) -> None:
    """testdev.md BAR1 0x300-0x3ff: RW under 0x00ff00ff, reset 0x12345678."""
    assert client.read_bytes(raw.BAR1, 0x300, 256) == bytes.fromhex("78563412") * 64
    client.write(raw.BAR1, 0x300, 0xAABBCCDD)
    assert client.read(raw.BAR1, 0x300) == 0x12BB56DD
    client.write(raw.BAR1, 0x302, 0x99, 1)
    client.write(raw.BAR1, 0x301, 0x99, 1)
    assert client.read(raw.BAR1, 0x300) == 0x129956DD
    client.write(raw.BAR1, 0x3F8, (1 << 64) - 1, 8)
    assert client.read(raw.BAR1, 0x3F8, 8) == 0x12FF56FF12FF56FF


def test_plain_doorbell_when_posted_counts(client: raw.Client) -> None:
    """testdev.md BAR1 0x400: each write adds 1; a 4-byte read gives the count."""
    client.raw(b"".join(posted(client, raw.BAR1, 0x400) for _ in range(1000)))
    assert client.read(raw.BAR1, 0x400) == 1000
    client.write(raw.BAR1, 0x400, 0, 1)
    client.write(raw.BAR1, 0x402, 0, 2)
    assert client.read(raw.BAR1, 0x400) == 1002
    assert client.read(raw.BAR0, UNDECLARED) == 0


# BAR5


def test_ports_hold_a_byte_and_a_word(client: raw.Client) -> None:
    """testdev.md BAR5."""
    client.write(raw.BAR5, 0, 0x5A, 1)
    client.write(raw.BAR5, 4, 0x11223344)
    client.write(raw.BAR5, 6, 0xAABB, 2)
    assert (client.read(raw.BAR5, 0, 1), client.read(raw.BAR5, 4)) == (0x5A, 0xAABB3344)
    assert client.read(raw.BAR5, 4, 2) == 0x3344
    assert client.read(raw.BAR5, 7, 1) == 0xAA
    assert client.read(raw.BAR0, UNDECLARED) == 0


# WRITE_MULTI


def entry(region: int, offset: int, count: int, data: int) -> bytes:
    """A single write of a WRITE_MULTI."""
    return raw.ACCESS.pack(offset, region, count) + data.to_bytes(8, "little")


def test_write_multi_of_200_entries_is_done_in_order(client: raw.Client) -> None:
    """Specification, REGION_WRITE_MULTI; field-notes G: 200 entries, payload 4808."""
    entries = b"".join(entry(raw.BAR0, SCRATCH, 4, n) + entry(raw.BAR1, 0x400, 4, 0) for n in range(100))
    reply = client.request(raw.REGION_WRITE_MULTI, (200).to_bytes(8, "little") + entries)
    assert reply.payload == (200).to_bytes(8, "little")
    assert (client.read(raw.BAR0, SCRATCH), client.read(raw.BAR1, 0x400)) == (99, 100)
    client.send(raw.REGION_WRITE_MULTI, (200).to_bytes(8, "little") + entries, flags=raw.NO_REPLY)
    assert client.read(raw.BAR1, 0x400) == 200


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_write_multi_takes_count_bytes_of_the_data(client: raw.Client, count: int) -> None:
    """Specification, Single Device Write Format."""
    client.request(raw.REGION_WRITE_MULTI, (1).to_bytes(8, "little") + entry(raw.BAR1, 0x40, count, (1 << 64) - 1))
    assert client.read(raw.BAR1, 0x40, 8) == (1 << 8 * count) - 1


@pytest.mark.parametrize(
    "payload",
    [
        (2).to_bytes(8, "little") + entry(raw.BAR1, 0, 4, 1),
        (1 << 62).to_bytes(8, "little"),
        (0xAAAAAAAAAAAAAAB).to_bytes(8, "little") + entry(raw.BAR1, 0, 4, 1),
        (1).to_bytes(8, "little") + entry(raw.BAR1, 0, 4, 1)[:-1],
        (1).to_bytes(8, "little") + entry(raw.BAR1, 0, 9, 1),
        (1).to_bytes(8, "little") + entry(raw.BAR1, 0, 0, 1),
        (1).to_bytes(8, "little") + entry(9, 0, 4, 1),
        (1).to_bytes(8, "little") + entry(raw.BAR1, 4094, 4, 1),
    ],
)
def test_write_multi_that_is_malformed_is_einval(client: raw.Client, payload: bytes) -> None:
    """Specification: writes of 8 bytes or less, wr_cnt entries; testdev.md: bounds."""
    with refused(errno.EINVAL):
        client.request(raw.REGION_WRITE_MULTI, payload)
