"""Reset, disconnect, reconnect and the server's own end, by a client that knows only the specification."""

import errno
import json
import mmap
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import (
    PROGRAM,
    Eventfd,
    Server,
    closes_or_refuses,
    eventually,
    one_device,
    refused,
)

SIGNATURE = b"vfuserver-bar2!\0"


def test_reset_of_everything_gives_the_power_on_image(client: raw.Client) -> None:
    """S2.30: configuration space returns to power-on."""
    client.reset()
    image = client.read_bytes(raw.CONFIG, 0, 4096)
    assert image[4:6] == b"\0\0"
    for at in range(256):
        client.write(raw.CONFIG, at, 0x5A, 1)
    client.reset()
    assert client.read_bytes(raw.CONFIG, 0, 4096) == image


def test_reset_of_bar2_keeps_the_file_and_clears_the_bytes(client: raw.Client) -> None:
    """testdev.md, BAR2: zero but the signature, and the same file stays."""
    with mmap.mmap(client.region_info(raw.BAR2, 80).fds[0], 1 << 20) as shared:
        shared[:] = b"\xa5" * (1 << 20)
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        expected = bytearray(1 << 20)
        expected[0x80000:0x80010] = SIGNATURE
        assert client.read_bytes(raw.BAR2, 0, 1 << 20) == expected
        assert shared[:] == expected
        client.write(raw.BAR2, 0x2000, 0x77, 1)
        assert shared[0x2000] == 0x77


def test_reset_of_registers_gives_their_reset_values(client: raw.Client) -> None:
    """testdev.md: BAR0, BAR1 and BAR5 after a reset."""
    for at in (4, 8, 12, 0x20, 0x28, 0x30, 0x3C, 0x44, 0x500):
        client.write(raw.BAR0, at, 3)
    client.write(raw.BAR0, 0x10, 1)
    for at in (0, 0x80, 0x200, 0x300, 0x400):
        client.write(raw.BAR1, at, 0x01010101)
    client.write_bytes(raw.BAR5, 0, b"\7" * 8)
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    assert [client.read(raw.BAR0, at) for at in (4, 8, 12, 0x14, 0x20, 0x28, 0x30, 0x38, 0x3C, 0x44, 0x4C)] == [0] * 11
    assert [client.read(raw.BAR1, at) for at in (0, 0x80, 0x200, 0x300, 0x400)] == [0, 0, 2**32 - 1, 0x12345678, 0]
    assert (client.read(raw.BAR5, 0, 1), client.read(raw.BAR5, 4)) == (0, 0)


def test_reset_while_a_client_has_maps_and_eventfds_keeps_them(
    client: raw.Client, eventfds: Callable[..., list[Eventfd]], memory: int
) -> None:
    """S2.30: eventfd assignments survive; a DMA map is the client's and is not the device's to drop."""
    (event,) = eventfds()
    client.arm(raw.MSIX, [event.fd])
    client.dma_map(0, 4096, memory)
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    with refused(errno.EEXIST):
        client.dma_map(0, 4096, memory)
    client.write(raw.BAR0, 0x18, 0)
    assert event.fires() == 1


# Disconnect and reconnect


def test_disconnect_keeps_the_state_and_drops_maps_and_eventfds(
    server: Server, eventfds: Callable[..., list[Eventfd]], memory: int
) -> None:
    """Specification, Client Disconnection: memory unmapped, descriptors closed, state retained."""
    (event,) = eventfds()
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.write(raw.BAR0, 4, 0xC0FFEE)
        client.write_bytes(raw.BAR2, 0x5000, b"kept")
        client.arm(raw.MSIX, [event.fd])
        client.dma_map(0x10000, 1 << 20, memory)
        assert "memfd:guest" in server.mappings()
    assert eventually(lambda: "memfd:guest" not in server.mappings())
    assert eventually(lambda: server.at_rest())
    with raw.Client(server.path) as client:
        assert client.read(raw.CONFIG, 4, 2) == 7
        assert client.read(raw.BAR0, 4) == 0xC0FFEE
        assert client.read_bytes(raw.BAR2, 0x5000, 4) == b"kept"
        client.dma_map(0x10000, 1 << 20, memory)
        client.write(raw.BAR0, 0x18, 0)
        assert client.read(raw.CONFIG, 6, 2) & 8, "no MSI-X is armed now, so INTx"
        assert event.fired() == 0


def test_reconnect_300_times_at_once_is_never_refused(server: Server) -> None:
    """Issue 2: 300 immediate reconnects, none refused."""
    for n in range(300):
        with raw.Client(server.path) as client:
            client.post(raw.CONFIG, 0x3C, n & 0xFF, 1)
    with raw.Client(server.path) as client:
        assert client.read(raw.CONFIG, 0x3C, 1) == 299 & 0xFF
    assert eventually(lambda: server.at_rest())


def test_second_client_while_the_first_is_served_is_refused(server: Server, client: raw.Client) -> None:
    """Issue 2: a second client on a busy socket is refused with a logged reason, the first goes on."""
    for _ in range(5):
        with pytest.raises(ConnectionError):
            raw.Client(server.path)
        assert client.read(raw.BAR0, 0) == 0x54534554
    assert "refused" in server.log()


def test_socket_of_a_server_has_mode_0600(server: Server) -> None:
    """Issue 2: sockets are created 0600 unless told otherwise."""
    assert os.stat(server.path).st_mode & 0o777 == 0o600


# Processes


def test_server_with_max_dma_maps_refuses_the_fifth(tmp_path: Path) -> None:
    """S1.14: limit 4: fifth map ENOSPC, unmap one, retry succeeds."""
    with one_device(tmp_path, "--max-dma-maps", "4", "--write-multiple") as own, raw.Client(own.path, None) as client:
        capabilities = json.loads(client.version(raw.QEMU)[:-1])["capabilities"]
        assert capabilities["max_dma_maps"] == 4
        assert capabilities["write_multiple"] is True
        for n in range(4):
            client.dma_map(n << 12, 4096)
        with refused(errno.ENOSPC):
            client.dma_map(4 << 12, 4096)
        client.dma_unmap(0, 4096)
        client.dma_map(4 << 12, 4096)


def test_server_with_max_data_xfer_size_keeps_to_it(tmp_path: Path) -> None:
    """S1.14, S2.5: the limit is advertised and count beyond it is EINVAL; such a write may be an oversized message."""
    with one_device(tmp_path, "--max-data-xfer-size", "8192") as own, raw.Client(own.path, None) as client:
        assert json.loads(client.version(raw.QEMU)[:-1])["capabilities"]["max_data_xfer_size"] == 8192
        client.write(raw.CONFIG, 4, 7, 2)
        assert len(client.read_bytes(raw.BAR2, 0, 8192)) == 8192
        with refused(errno.EINVAL):
            client.read_bytes(raw.BAR2, 0, 8193)
        message = raw.ACCESS.pack(0, raw.BAR2, 8193) + bytes(8193)
        assert closes_or_refuses(client, client.send(raw.REGION_WRITE, message))


def test_server_on_a_live_socket_gives_up_and_on_a_stale_one_starts(tmp_path: Path) -> None:
    """Issue 2: a stale socket file is replaced, a live one is never stolen."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    with one_device(tmp_path) as own:
        arguments = [PROGRAM, "serve", "testdev", "--socket", own.path]
        second = subprocess.run(arguments, capture_output=True, text=True, timeout=10, check=False)
        assert second.returncode not in (0, None)
        assert own.path in second.stderr
        with raw.Client(own.path) as client:
            assert client.info()[0] == 16


def test_server_when_terminated_with_a_client_connected_ends_with_0(tmp_path: Path) -> None:
    """Issue 2: SIGTERM: sockets removed, exit 0 (the context sees to both); the client sees the end."""
    with one_device(tmp_path) as own:
        client = raw.Client(own.path)
    with client:
        assert client.closed()


def test_quirk_region_errors_all_ones_answers_with_data(tmp_path: Path) -> None:
    """Field-notes C.10: a client that waits for the whole payload of a failed access is not left waiting."""
    with one_device(tmp_path, "--quirk", "region-errors=all-ones") as own, raw.Client(own.path) as client:
        assert client.read_bytes(raw.BAR0, 1 << 20, 8) == b"\xff" * 8
        client.write_bytes(raw.BAR0, 1 << 20, bytes(8))
        with refused(errno.EINVAL):
            client.irq_info(9)
