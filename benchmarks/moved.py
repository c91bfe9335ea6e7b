"""The other processes of the migration cases: `python -m benchmarks.moved NAME SOCKET`.

`plain` receives what a plain socket brings, into memory that is there already. Any other name is one of MODELS, served
by the engine as `vfuserver serve` does it. Each prints one line when it listens.
"""

import socket
import sys
from pathlib import Path
from typing import Final

from benchmarks.sizes import AREA, AREAS, GIB, LARGE, MIB, SMALL
from vfuserver import Bar, PciDevice, PciIdentity
from vfuserver.engine import Server, listen, run_loop


class Large(PciDevice):
    """Memory that goes ahead while the guest runs."""

    identity = PciIdentity(vendor=0x1234, device=0xBE01)
    memory = Bar(2, size=LARGE, bits=64, prefetchable=True, backing=True, streamed=True)
    bytes_of_it = memory.memory(0, LARGE)


class Small(PciDevice):
    """Memory that is sent when the device has stopped."""

    identity = PciIdentity(vendor=0x1234, device=0xBE02)
    memory = Bar(2, size=SMALL, bits=64, prefetchable=True, backing=True)
    bytes_of_it = memory.memory(0, SMALL)


class Writer(PciDevice):
    """Each write of its register writes into every area of the client's memory: one byte in each page of the first."""

    identity = PciIdentity(vendor=0x1234, device=0xBE03)
    control = Bar(0, size=4096)
    go = control.rw(0)

    @go.on_write
    def write_everywhere(self, value: int) -> None:
        """One transfer an area."""
        data = bytes([value & 0xFF]) * AREA
        for area in range(AREAS):
            self.dma.write_now(area * GIB, data)


MODELS: Final = {"large": Large, "small": Small, "writer": Writer}


async def _serve(model: type[PciDevice], path: Path) -> None:
    async with Server() as server:
        server.add(model(), listen(path))
        server.stop_on()
        print("ready", flush=True)
        await server.stopped()


def _receive(path: Path) -> None:
    """Takes LARGE bytes at a time, in pieces of at most 1 MiB, and answers each time with one."""
    listener = listen(path).socket
    listener.setblocking(True)
    print("ready", flush=True)
    place = memoryview(bytearray(b"\1") * LARGE)
    sock, _ = listener.accept()
    while (got := _fill(sock, place)) == LARGE:
        sock.sendall(b"\0")
    assert got == 0


def _fill(sock: socket.socket, place: memoryview) -> int:
    """As many bytes as have come, at least what there is room for unless the peer has closed."""
    got = 0
    while got < len(place) and (count := sock.recv_into(place[got : got + MIB])):
        got += count
    return got


if __name__ == "__main__":
    name, path = sys.argv[1], Path(sys.argv[2])
    if name == "plain":
        _receive(path)
    else:
        run_loop(lambda: _serve(MODELS[name], path))
