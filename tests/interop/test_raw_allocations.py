"""What a server allocates for a message that it serves in C, or whose hook needs no more: nothing (issue 6).

A library that stands before the C library's allocator counts (`allocations.c`), and Python is told to use that one for
its objects, too. Each case is a burst of messages on a socket, a wake-up of the event loop included. What Python keeps
for itself without asking (small numbers, frames, free lists) costs nothing, and does not show.
"""

import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import ENGINE, Server

HERE = Path(__file__).parent
COUNTERS = 16
MESSAGES = 50
PLAIN, HOOKED, LATEST, RAISE, COPY, WASTEFUL, LARGE, GAP = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x100
SMALL = 7
"""A number that Python keeps."""
CONFIG_SPACE = 4096

pytestmark = pytest.mark.skipif(bool(ENGINE), reason="what another engine allocates is its own affair")


class Counted:
    """A server whose allocations are counted, and a client of it whose memory and interrupts it has."""

    def __init__(self, client: raw.Client, counters: Path) -> None:
        self.client, self._counters = client, counters

    def read(self, offset: int, count: int = 4, region: int = raw.BAR0) -> bytes:
        return self.client.message(raw.REGION_READ, raw.ACCESS.pack(offset, region, count))

    def write(self, offset: int, value: int = SMALL, *, flags: int = 0, width: int = 4) -> bytes:
        data = raw.ACCESS.pack(offset, raw.BAR0, width) + value.to_bytes(width, "little")
        return self.client.message(raw.REGION_WRITE, data, flags)

    def post(self, offset: int, value: int = SMALL) -> bytes:
        return self.write(offset, value, flags=raw.NO_REPLY)

    def write_multi(self, offset: int) -> bytes:
        entry = struct.pack("=QII8s", offset, raw.BAR0, 4, bytes([SMALL]))
        return self.client.message(raw.REGION_WRITE_MULTI, struct.pack("=Q", 4) + 4 * entry)

    def each(self, make: Callable[[], bytes]) -> tuple[float, float]:
        """What one of these messages allocates, and what of that is not freed, once the server is warm."""
        for _ in range(3):
            self._burst([make() for _ in range(MESSAGES)])
        taken, left = self._burst([make() for _ in range(MESSAGES)])
        return taken / MESSAGES, left / MESSAGES

    def _burst(self, messages: list[bytes]) -> tuple[int, int]:
        before = self._settled()
        messages = [*messages, self.read(PLAIN)]
        self.client.raw(b"".join(messages))
        posted = sum(bool(raw.HEADER.unpack_from(one)[3] & raw.NO_REPLY) for one in messages)
        for _ in range(len(messages) - posted):
            self.client.receive()
        taken, freed = (now - was for now, was in zip(self._settled(), before, strict=True))
        return taken, taken - freed

    def _settled(self) -> tuple[int, int]:
        """The counts, when the server has nothing left to do."""
        before, now = (-1, -1), (0, 0)
        while now != before:
            time.sleep(0.002)
            before, now = now, struct.unpack("=QQ", self._counters.read_bytes()[:COUNTERS])
        return now


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    """A Counted, until the end of the module."""
    folder = tmp_path_factory.mktemp("counted")
    library, counters = folder / "allocations.so", folder / "counters"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "allocations.c"], check=True)
    counters.write_bytes(bytes(COUNTERS))
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("VFU_ALLOCATIONS", str(counters))
        environment.setenv("PYTHONMALLOC", "malloc")
        environment.setenv("LD_PRELOAD", str(library))
        socket = str(folder / "s")
        log = stack.enter_context(open(folder / "log", "wb"))
        server = stack.enter_context(
            Server(folder, log, [f"{HERE / 'allocating.py'}:Frugal", "--socket", socket], [socket])
        )
        client = stack.enter_context(raw.Client(server.path))
        fds = [os.memfd_create("guest"), os.eventfd(0), os.eventfd(0)]
        for fd in fds:
            stack.callback(os.close, fd)
        os.ftruncate(fds[0], 1 << 20)
        client.dma_map(0, 1 << 20, fds[0])
        client.arm(raw.MSIX, fds[1:])
        yield Counted(client, counters)


C_ONLY: dict[str, Callable[[Counted], bytes]] = {
    "read": lambda on: on.read(PLAIN),
    "write": lambda on: on.write(PLAIN, 0x1234_5678),
    "narrow write": lambda on: on.write(PLAIN, width=1),
    "posted write": lambda on: on.post(PLAIN, 0x1234_5678),
    "write multi": lambda on: on.write_multi(PLAIN),
    "undeclared": lambda on: on.read(GAP),
    "read of memory": lambda on: on.read(0, 4096, raw.BAR2),
    "refused": lambda on: on.read(0, 4, 200),
}
HOOKS: dict[str, Callable[[Counted], bytes]] = {
    "read": lambda on: on.read(HOOKED),
    "write": lambda on: on.write(HOOKED),
    "posted write": lambda on: on.post(HOOKED),
    "write multi": lambda on: on.write_multi(HOOKED),
    "latest posted write": lambda on: on.post(LATEST),
}
SOME: dict[str, tuple[Callable[[Counted], bytes], int]] = {
    "large number": (lambda on: on.read(LARGE), 1),
    "interrupt": (lambda on: on.write(RAISE, 1), 2),
    "copy": (lambda on: on.write(COPY, 64), 1),
}


@pytest.mark.parametrize("what", C_ONLY)
def test_message_that_is_served_in_c_allocates_nothing(counted: Counted, what: str) -> None:
    assert counted.each(lambda: C_ONLY[what](counted)) == (0, 0)


@pytest.mark.parametrize("what", HOOKS)
def test_hook_that_is_told_and_tells_small_numbers_allocates_nothing(counted: Counted, what: str) -> None:
    assert counted.each(lambda: HOOKS[what](counted)) == (0, 0)


@pytest.mark.parametrize("what", SOME)
def test_hook_costs_no_more_objects_than_python_itself_needs(counted: Counted, what: str) -> None:
    """A number that Python does not keep; an iterator of our own code in Python; nothing in C."""
    make, most = SOME[what]
    taken, left = counted.each(lambda: make(counted))
    assert taken <= most
    assert left == 0


def test_hook_that_wastes_is_seen_to(counted: Counted) -> None:
    """These tests can fail: by what is taken and given back, and by what is kept."""
    assert counted.each(lambda: counted.read(WASTEFUL)) == (1, 0)
    taken, left = counted.each(lambda: counted.write(WASTEFUL, 0xFFF))
    assert taken >= 1
    assert left >= 1


def test_allocation_in_c_is_seen(counted: Counted) -> None:
    """More bytes than its stack has room for are read into memory of their own, for as long as the read takes."""
    assert counted.each(lambda: counted.read(0, 3 * CONFIG_SPACE, raw.BAR2))[0] >= 1
