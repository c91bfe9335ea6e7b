"""A session with testdev, from the first byte to the disconnect, by a client that knows only the specification."""

import errno
import json
import mmap
import os
import struct
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Eventfd, Server, closes_or_refuses, refused

LIMITS = {"max_msg_fds": 16, "max_data_xfer_size": 64 << 20, "max_dma_maps": 65535}
SIGNATURE = b"vfuserver-bar2!\0"


# The whole way, in the order of QEMU


def test_session_in_qemus_order_is_served(server: Server, eventfds: Callable[..., list[Eventfd]], memory: int) -> None:
    """Issue 2: someone else's client gets through a whole session (field-notes C.1)."""
    with raw.Client(server.path) as client:
        maps = [client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, n << 12, n << 12, 4096)) for n in range(8)]
        for each in maps:
            client.raw(each, [memory])
        for n in range(8):
            assert client.receive()[1:4] == (raw.DMA_MAP, raw.REPLY, 0), n
        assert client.info()[1:] == (3, 9, 5)
        sizes = [client.region_info(index).size for index in (0, 1, 2, 3, 4, 5, 7)]
        assert sizes == [4096, 4096, 1 << 20, 0, 4096, 256, 4096]
        assert client.irq_info(raw.ERR)[3] == 1
        assert len(client.read_bytes(raw.CONFIG, 0, 4096)) == 4096
        line, error = eventfds(2)
        client.arm(raw.INTX, [line.fd])
        client.arm(raw.ERR, [error.fd])
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read(raw.BAR0, 0) == 0x54534554
        client.write(raw.BAR0, 0x18, 0)
        assert line.fires() == 1
        client.dma_unmap(0, 8 << 12)


# VERSION


def test_version_as_qemu_proposes_it_is_answered_with_proposed_keys(server: Server) -> None:
    """Field-notes C.2, S1.14: 0.0, no longer than the request, only proposed keys, limits within QEMU's."""
    with raw.Client(server.path, None) as client:
        answer = client.version(raw.QEMU)
    assert len(answer) <= len(raw.QEMU)
    assert answer[-1:] == b"\0"
    body = json.loads(answer[:-1])
    assert set(body) == {"capabilities"}
    proposed = set(json.loads(raw.QEMU[:-1])["capabilities"])
    assert set(body["capabilities"]) <= proposed - {"migration", "write_multiple"}
    assert all(1 <= body["capabilities"][key] <= limit for key, limit in LIMITS.items())
    assert body["capabilities"]["pgsizes"] % 4096 == 0
    assert body["capabilities"]["pgsizes"] >= 4096


PROPOSALS = [
    b"",
    b"{}\0",
    b'{"capabilities":{}}\0',
    b'{"capabilities":{"max_msg_fds":1}}\0',
    b'{"capabilities":{"pgsizes":4096}}\0',
    b'{"capabilities":{"max_dma_maps":1}}\0',
    b'{"capabilities":{"max_dma_maps":1,"max_msg_fds":2,"max_data_xfer_size":4096}}\0',
    b'{"capabilities":{"twin_socket":{"supported":false}}}\0',
    b'{"capabilities":{"somebody.elses":[1,{"x":null}],"max_msg_fds":8}}\0',
    b'{"capabilities":{"write_multiple":false}}\0',
    b'{"capabilities":{"migration":{"pgsize":4096}}}\0',
    b'{"others":1}\0',
]


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda data: data[:60].decode())
def test_version_with_few_keys_is_answered_with_a_subset(server: Server, proposal: bytes) -> None:
    """S1.14: the reply repeats only what was proposed, so it is never longer than the request."""
    with raw.Client(server.path, None) as client:
        answer = client.version(proposal)
        assert len(answer) <= len(proposal)
        if answer:
            assert answer[-1:] == b"\0"
            capabilities = json.loads(answer[:-1]).get("capabilities", {})
            assert set(capabilities) <= set(json.loads(proposal[:-1]).get("capabilities", {}))
        assert client.info()[2] >= 9


@pytest.mark.parametrize("minor", [1, 2, 0xFFFF])
def test_version_with_a_later_minor_is_answered_with_zero(server: Server, minor: int) -> None:
    """Specification: the minor is equal to or less than proposed; field-notes C.10."""
    with raw.Client(server.path, None) as client:
        client.version(raw.QEMU, minor=minor)
        assert client.info()[2] >= 9


BAD_PROPOSALS = [
    b"\0\0",
    b"\1\0\0\0{}\0",
    b"\0\0\0\0{\0",
    b"\0\0\0\0[1]\0",
    b"\0\0\0\0\xff\xfe\0",
    b'\0\0\0\0{"capabilities":7}\0',
    b'\0\0\0\0{"capabilities":{"max_msg_fds":"many"}}\0',
    b'\0\0\0\0{"capabilities":{"max_data_xfer_size":-1}}\0',
    b'\0\0\0\0{"capabilities":{"pgsizes":1e400}}\0',
    b"\0\0\0\0" + b"[" * 60000 + b"\0",
]


@pytest.mark.parametrize("payload", BAD_PROPOSALS, ids=lambda data: repr(data[:50]))
def test_version_that_is_malformed_is_refused(server: Server, payload: bytes) -> None:
    """Issue 2: never a crash; specification: a version that cannot be supported closes the connection."""
    with raw.Client(server.path, None) as client:
        assert closes_or_refuses(client, client.send(raw.VERSION, payload))


def test_version_sent_twice_is_refused(server: Server) -> None:
    """Specification: VERSION is the initial message."""
    with raw.Client(server.path) as client:
        assert closes_or_refuses(client, client.send(raw.VERSION, bytes(4) + raw.QEMU))


@pytest.mark.parametrize("command", [raw.GET_INFO, raw.RESET, raw.DMA_MAP, 99])
def test_command_before_version_closes_the_connection(server: Server, command: int) -> None:
    """Requirements, preamble: a command before VERSION closes the connection."""
    with raw.Client(server.path, None) as client:
        client.send(command, bytes(32))
        assert client.closed()


# Information


def test_info_of_the_device_names_pci_and_reset(client: raw.Client) -> None:
    """Specification, DEVICE_GET_INFO; field-notes C.3."""
    argsz, flags, regions, irqs = client.info()
    assert (argsz, flags, irqs) == (16, 3, 5)
    assert 9 <= regions <= 100


@pytest.mark.parametrize("argsz", [0, 7, 15])
def test_info_with_a_short_argsz_is_refused(client: raw.Client, argsz: int) -> None:
    """Specification, Message sizes: argsz is at least the size of the fixed part."""
    with refused(errno.EINVAL):
        client.info(argsz)


REGIONS = [
    (raw.BAR0, 4096, 3),
    (raw.BAR1, 4096, 3),
    (raw.BAR3, 0, 0),
    (raw.BAR4, 4096, 3),
    (raw.BAR5, 256, 3),
    (raw.ROM, 0, 0),
    (raw.CONFIG, 4096, 3),
    (raw.VGA, 0, 0),
]


@pytest.mark.parametrize(("index", "size", "flags"), REGIONS)
def test_region_info_without_capabilities_fits_in_32_bytes(
    client: raw.Client, index: int, size: int, flags: int
) -> None:
    """testdev.md: sizes and what is mappable."""
    info = client.region_info(index)
    assert (info.argsz, info.region, info.size, info.flags) == (32, index, size, flags)
    assert (info.cap_offset, info.caps, info.fds) == (0, b"", [])


@pytest.mark.parametrize("index", [9, 100, 0xFFFFFFFF])
def test_region_info_of_an_unknown_index_is_einval(client: raw.Client, index: int) -> None:
    """Requirements, preamble: unknown region or IRQ index EINVAL."""
    with refused(errno.EINVAL):
        client.region_info(index)


def test_region_info_with_a_short_argsz_tells_the_size_and_then_sends_all(client: raw.Client) -> None:
    """Field-notes C.3: no capabilities in the first reply; the second has the two areas and the descriptor."""
    first = client.region_info(raw.BAR2)
    assert (first.argsz, first.caps, first.size) == (80, b"", 1 << 20)
    assert first.flags & 7 == 7
    for argsz in (40, 79):
        assert client.region_info(raw.BAR2, argsz)[:2] == first[:2]
        assert not client.region_info(raw.BAR2, argsz).caps
    info = client.region_info(raw.BAR2, 80)
    assert (info.argsz, info.flags, info.cap_offset, len(info.fds)) == (80, 15, 32, 1)
    ident, version, following, areas, reserved = struct.unpack_from("=HHIII", info.caps)
    assert (ident, version, following, areas, reserved) == (1, 1, 0, 2, 0)
    assert struct.unpack_from("=4Q", info.caps, 16) == (0x1000, 0x3F000, 0x80000, 0x80000)


def test_region_info_with_a_short_argsz_says_where_capabilities_will_be(client: raw.Client) -> None:
    """QEMU 11.1 refuses a device whose truncated reply sets FLAG_CAPS with a cap_offset outside of what it asks for."""
    assert client.region_info(raw.BAR2, 79).cap_offset == 32


def test_region_info_with_room_to_spare_is_not_padded(client: raw.Client) -> None:
    """Field-notes C.3: a reply carries no more than was asked for, and argsz what it needs."""
    info = client.region_info(raw.BAR2, 4096)
    assert (info.argsz, len(info.caps)) == (80, 48)


def test_region_info_of_a_bar_that_is_not_mappable_has_no_descriptor(server: Server) -> None:
    """testdev.md, BAR2: mappable=no serves the whole BAR without MMAP."""
    with raw.Client(server.paths[1]) as client:
        info = client.region_info(raw.BAR2, 80)
        assert (info.flags, info.size, info.argsz, info.fds) == (3, 1 << 20, 32, [])
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read_bytes(raw.BAR2, 0x80000, 16) == SIGNATURE


IRQS = [(raw.INTX, 1, 3), (raw.MSI, 4, 1), (raw.MSIX, 8, 3), (raw.ERR, 1, 1), (raw.REQ, 1, 1)]


@pytest.mark.parametrize(("index", "count", "flags"), IRQS)
def test_irq_info_tells_count_and_flags(client: raw.Client, index: int, count: int, flags: int) -> None:
    """testdev.md: INTx, 4 MSI, 8 MSI-X, ERR, REQ; S2.21: MSI-X is MASKABLE; no NORESIZE (field-notes C.6)."""
    argsz, got, echoed, number = client.irq_info(index)
    assert (argsz, echoed, number) == (16, index, count)
    assert got & flags == flags
    assert not got & 8


@pytest.mark.parametrize("index", [5, 0xFFFFFFFF])
def test_irq_info_of_an_unknown_index_is_einval(client: raw.Client, index: int) -> None:
    """Requirements, preamble."""
    with refused(errno.EINVAL):
        client.irq_info(index)


# Other commands


@pytest.mark.parametrize("command", [0, 14, 20, 99, 0xFFFF])
def test_command_that_nobody_knows_is_enotsup(client: raw.Client, command: int) -> None:
    """Requirements, preamble: unknown command ENOTSUP; the body is drained (field-notes C.10)."""
    with refused(errno.ENOTSUP):
        client.request(command, bytes(100))
    assert client.info()[0] == 16


@pytest.mark.parametrize("command", [raw.DMA_READ, raw.DMA_WRITE])
def test_command_of_the_other_direction_is_refused(client: raw.Client, command: int) -> None:
    """Specification, Commands: DMA_READ and DMA_WRITE go from the server to the client."""
    with pytest.raises(raw.RefusedError):
        client.request(command, bytes(16))


FEATURES = [
    (struct.pack("=II", 7, 1 << 16 | 1), errno.EINVAL),
    (struct.pack("=II", 8, 1 << 19 | 1), errno.EINVAL),
    (struct.pack("=II", 8, 3 << 16 | 1), errno.EINVAL),
    (struct.pack("=II", 8, 1 << 16 | 0xFFFF), errno.ENOTTY),
    (struct.pack("=II", 8, 0xFFFF), errno.ENOTTY),
    (struct.pack("=II", 8, 7 << 16 | 0xFFFF), errno.ENOTTY),
    (bytes(7), errno.EINVAL),
]


@pytest.mark.parametrize(("payload", "expected"), FEATURES)
def test_feature_with_wrong_flags_is_refused(client: raw.Client, payload: bytes, expected: int) -> None:
    """S0.3 and the preamble: argsz, flag bits, GET with SET, then unknown features."""
    with refused(expected):
        client.request(raw.DEVICE_FEATURE, payload)


SHORT = [
    (raw.DMA_MAP, 31),
    (raw.DMA_UNMAP, 23),
    (raw.GET_INFO, 15),
    (raw.GET_REGION_INFO, 31),
    (raw.GET_IRQ_INFO, 15),
    (raw.SET_IRQS, 19),
    (raw.REGION_READ, 15),
    (raw.REGION_WRITE, 15),
    (raw.DEVICE_FEATURE, 7),
]


@pytest.mark.parametrize(("command", "size"), SHORT)
def test_payload_that_is_cut_is_einval(client: raw.Client, command: int, size: int) -> None:
    """S3.17: fixed-size structs must be complete."""
    for length in (0, 1, size):
        with refused(errno.EINVAL):
            client.request(command, bytes(length))


def test_no_reply_to_any_command_is_obeyed(client: raw.Client) -> None:
    """Specification, Header: No_reply, errors included; the next reply is to the next command."""
    for command in (*range(2, 11), 13, 15, 16, 17, 18, 99):
        client.send(command, bytes(40), flags=raw.NO_REPLY)
    client.send(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR0, 4), flags=raw.NO_REPLY)
    assert client.info()[0] == 16
    assert client.quiet()


def test_no_reply_write_takes_effect_before_the_next_command(client: raw.Client) -> None:
    """Specification, Command Concurrency."""
    for value in range(50):
        client.post(raw.BAR0, 4, value)
        assert client.read(raw.BAR0, 4) == value


# BAR2 by both ways


def test_bar2_when_mapped_shows_the_same_bytes_as_messages(client: raw.Client) -> None:
    """testdev.md, BAR2: both ways see the same bytes, in both areas."""
    info = client.region_info(raw.BAR2, 80)
    with mmap.mmap(info.fds[0], 1 << 20, offset=info.offset) as shared:
        assert shared[0x80000:0x80010] == SIGNATURE
        for at in (0x1000, 0x3FFF0, 0x80100, 0xFFFF0):
            shared[at : at + 16] = bytes(range(at & 0x70, (at & 0x70) + 16))
            assert client.read_bytes(raw.BAR2, at, 16) == shared[at : at + 16]
            client.write_bytes(raw.BAR2, at + 3, b"from messages")
            assert shared[at + 3 : at + 16] == b"from messages"


def test_bar2_descriptor_when_cut_is_sealed(client: raw.Client) -> None:
    """Issue 2 and testdev.md, BAR2: the client cannot cut the file."""
    fd = client.region_info(raw.BAR2, 80).fds[0]
    for size in (0, 4096, (1 << 20) - 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    assert client.read_bytes(raw.BAR2, 0x80000, 16) == SIGNATURE


def test_bar2_taken_in_one_message_has_any_length(client: raw.Client) -> None:
    """testdev.md: BAR2 takes any length, across the areas' edges."""
    data = bytes(range(251)) * 17
    client.write_bytes(raw.BAR2, 0x3FC01, data)
    assert client.read_bytes(raw.BAR2, 0x3FC01, len(data)) == data
    assert client.read_bytes(raw.BAR2, 0x3FC00, 2) == b"\0\0"
    assert len(client.read_bytes(raw.BAR2, 0, 1 << 20)) == 1 << 20


def test_bar2_while_memory_is_off_stays_mapped(client: raw.Client) -> None:
    """testdev.md, BAR2: messages answer all-ones, a client's mapping stays."""
    info = client.region_info(raw.BAR2, 80)
    with mmap.mmap(info.fds[0], 1 << 20) as shared:
        client.write(raw.CONFIG, 4, 0, 2)
        assert client.read_bytes(raw.BAR2, 0x80000, 16) == b"\xff" * 16
        shared[0x90000] = 0x5A
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read(raw.BAR2, 0x90000, 1) == 0x5A


# Bounds


BOUNDS = [
    (raw.BAR0, 4096, 1),
    (raw.BAR0, 4094, 4),
    (raw.BAR0, 0, 0),
    (raw.BAR0, (1 << 64) - 4, 4),
    (raw.BAR0, (1 << 64) - 4, 8),
    (raw.BAR1, 0, 4097),
    (raw.BAR2, 1 << 20, 4),
    (raw.BAR2, 0, 0),
    (raw.BAR3, 0, 4),
    (raw.BAR4, 4096, 4),
    (raw.BAR5, 256, 1),
    (raw.BAR5, 255, 2),
    (raw.ROM, 0, 4),
    (raw.CONFIG, 4095, 2),
    (raw.CONFIG, 4096, 1),
    (raw.CONFIG, 0, 0),
    (raw.VGA, 0, 1),
    (9, 0, 4),
    (0xFFFFFFFF, 0, 4),
]


@pytest.mark.parametrize(("region", "offset", "count"), BOUNDS)
def test_access_beyond_a_region_is_einval(client: raw.Client, region: int, offset: int, count: int) -> None:
    """S2.5, testdev.md: count 0, an end beyond the region, an unknown region; no partial effect."""
    client.write(raw.BAR0, 0, 0)
    with refused(errno.EINVAL):
        client.read_bytes(region, offset, count)
    with refused(errno.EINVAL):
        client.write_bytes(region, offset, b"\xa5" * count)
    assert client.read(raw.BAR0, 0x4C) == 0


def test_access_longer_than_max_data_xfer_size_is_einval(client: raw.Client) -> None:
    """S2.5: count beyond max_data_xfer_size."""
    for count in ((1 << 20) + 1, 0xFFFFFFFF):
        with refused(errno.EINVAL):
            client.request(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, count))


@pytest.mark.parametrize("length", [0, 3, 5])
def test_write_with_a_count_that_is_not_the_datas_is_einval(client: raw.Client, length: int) -> None:
    """Specification, REGION_WRITE: count is the size of the data."""
    with refused(errno.EINVAL):
        client.request(raw.REGION_WRITE, raw.ACCESS.pack(4, raw.BAR0, 4) + bytes(length))
