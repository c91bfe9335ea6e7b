"""A pump that sleeps in its uvloop's place: when it does, and that nothing and nobody is later by that.

The client is another thread, as a loop that is slept for runs no client. What is tried is waited for without a timer,
since a loop that has one is not slept for; another thread ends the connection of one that hangs.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from tests.native.messages import read, replies, write
from vfuserver import _core
from vfuserver.engine.lane import Lane
from vfuserver.engine.polling import libuv
from vfuserver.errors import LocalError

LATE = 1.0
"""Seconds; nothing takes a hundredth of it."""


def uses_uvloop() -> bool:
    return libuv(asyncio.get_running_loop()) is not None


class Wire:
    """A lane with one register behind it, whose writes the test sees, and a client that sleeps."""

    def __init__(self) -> None:
        self.can_doze = uses_uvloop()
        self.on_write: Callable[[], object] = lambda: None
        self.flags: list[int] = []
        field = (0, 4, 1, bytes(4), 0, 0, 0, 0, 0, _core.WRITE_HOOK)
        table = _core.Table(_core.Layout(4, [field]), {0: (None, self._written)})
        self.stream = _core.Stream(lambda *_: b"", lambda *_: None)
        self.stream.regions = [(4, table)]
        self.stream.negotiated = True
        near, self.far = socket.socketpair()
        self.lane = Lane(asyncio.get_running_loop(), near, self.stream, self._after, lambda: None, 50)
        self.lane.watch(_core.Pump.READ)

    def _written(self, _: int) -> None:
        self.on_write()

    def _after(self, flags: int) -> None:
        self.flags.append(flags)
        self.lane.watch(flags & (_core.Pump.READ | _core.Pump.WRITE))

    @property
    def dozed(self) -> int:
        return int(self.lane.polling["woken"])

    def trip(self, request: bytes | None = None) -> None:
        """In the client's thread."""
        self.far.send(read(0, 4) if request is None else request)
        assert len(replies(self.far.recv(4096))) == 1

    def trips(self, count: int) -> None:
        for _ in range(count):
            time.sleep(0.0001)  # longer than is waited for
            self.trip()

    def write_while_it_dozes(self) -> None:
        """The write is served by a pump that sleeps in the loop's place."""
        for _ in range(1000 if self.can_doze else 1):
            before = self.dozed
            self.trips(1)
            if self.dozed > before:
                break
        self.trip(write(0, bytes(4)))

    def close(self) -> None:
        self.lane.close()
        self.stream.close()
        self.far.close()


@asynccontextmanager
async def wires(count: int = 1) -> AsyncIterator[list[Wire]]:
    made = [Wire() for _ in range(count)]
    try:
        yield made
    finally:
        for wire in made:
            wire.close()


async def in_thread(function: Callable[[], object]) -> None:
    """asyncio.to_thread() without anything else of the loop's than a descriptor at the end."""
    ended, raised = asyncio.Event(), []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)
        loop.call_soon_threadsafe(ended.set)

    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=run)
    thread.start()
    await ended.wait()
    thread.join()
    assert not raised


async def test_client_that_sleeps_is_served_by_a_pump_that_sleeps_in_the_loops_place() -> None:
    async with wires() as (wire,):
        await in_thread(lambda: wire.trips(300))
        assert (wire.dozed > 200) == uses_uvloop()
        assert wire.flags == []


async def test_loop_that_has_a_timer_is_not_slept_for() -> None:
    async with wires() as (wire,):
        timer = asyncio.get_running_loop().call_later(600, lambda: None)
        await in_thread(lambda: wire.trips(100))
        assert wire.lane.polling["sleeps"] == 0
        timer.cancel()


async def test_busy_neighbour_is_soon_left_to_the_loop() -> None:
    """Two clients that take turns: each ends the other's doze."""

    def take_turns() -> None:
        for number in range(400):
            both[number % 2].trips(1)

    async with wires(2) as both:
        await in_thread(take_turns)
        assert sum(int(wire.lane.polling["sleeps"]) for wire in both) < 100


# -- nothing is later ------------------------------------------------------------------------------------------------


Done = Callable[[], object]


class Ways:
    """What a hook, or somebody else, may ask of the loop; each calls `done` in the end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closing: list[Callable[[], object]] = []

    async def call_soon(self, done: Done) -> Done:
        return lambda: self.loop.call_soon(done)

    async def call_later(self, done: Done) -> Done:
        return lambda: self.loop.call_later(0.002, done)

    async def task(self, done: Done) -> Done:
        async def work() -> None:
            await asyncio.sleep(0)
            done()

        return lambda: self.closing.append(self.loop.create_task(work()).cancel)

    async def executor(self, done: Done) -> Done:
        return lambda: self.loop.run_in_executor(None, time.sleep, 0).add_done_callback(lambda _: done())

    async def another_thread(self, done: Done) -> Done:
        return lambda: threading.Timer(0.01, self.loop.call_soon_threadsafe, [done]).start()

    async def new_reader(self, done: Done) -> Done:
        fd = self._eventfd(1)

        def readable() -> None:
            self.loop.remove_reader(fd)
            done()

        return lambda: self.loop.add_reader(fd, readable)

    async def old_reader(self, done: Done) -> Done:
        fd = self._eventfd(0)

        def readable() -> None:
            os.eventfd_read(fd)
            done()

        self.loop.add_reader(fd, readable)
        self.closing.insert(0, lambda: self.loop.remove_reader(fd))
        return lambda: os.eventfd_write(fd, 1)

    async def signal(self, done: Done) -> Done:
        self.loop.add_signal_handler(signal.SIGUSR1, done)
        self.closing.append(lambda: self.loop.remove_signal_handler(signal.SIGUSR1))
        return lambda: threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGUSR1]).start()

    async def transport(self, done: Done) -> Done:
        """What is written to it goes out behind the callbacks, and comes in at another transport."""

        class Arrives(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                done()

        near, far = socket.socketpair()
        writes, _ = await self.loop.create_connection(asyncio.Protocol, sock=near)
        reads, _ = await self.loop.create_connection(Arrives, sock=far)
        self.closing += [writes.abort, reads.abort]
        return lambda: writes.write(b"out")

    def _eventfd(self, value: int) -> int:
        fd = os.eventfd(value)
        self.closing.append(lambda: os.close(fd))
        return fd


@pytest.mark.parametrize("name", [name for name in vars(Ways) if not name.startswith("_")])
async def test_what_a_hook_asks_of_the_loop_comes_as_soon_as_ever(name: str) -> None:
    done, ways = asyncio.Event(), Ways()
    way: Callable[[Done], Awaitable[Done]] = getattr(ways, name)
    asked: list[float] = []

    async with wires() as (wire,):
        ask = await way(done.set)

        def on_write() -> None:
            asked.append(time.monotonic())
            ask()

        wire.on_write = on_write
        rescue = threading.Timer(3 * LATE, wire.far.shutdown, [socket.SHUT_WR])
        rescue.start()
        before = wire.dozed
        client = threading.Thread(target=wire.write_while_it_dozes)
        client.start()
        await done.wait()
        took = time.monotonic() - asked[0]
        rescue.cancel()
        await in_thread(client.join)
        assert took < LATE
        assert (wire.dozed > before) == uses_uvloop()
        for close in ways.closing:
            close()
        await asyncio.sleep(0.01)


async def test_client_that_never_sleeps_keeps_nobody_from_the_loop() -> None:
    """A turn lasts as long as the loop has nothing else to do: a descriptor, a callback, a timer."""

    def ask_without_end() -> None:
        while not ended.is_set():
            wire.trip()

    ended = threading.Event()
    async with wires() as (wire,):
        client = threading.Thread(target=ask_without_end)
        client.start()
        began = time.monotonic()
        for _ in range(20):
            await in_thread(lambda: None)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        assert time.monotonic() - began < LATE
        ended.set()
        await in_thread(client.join)  # it waits for its last answer


FIRST = pytest.mark.parametrize("first", ["client", "neighbour"])


def in_order(first: str, wire: Wire, fd: int) -> list[Callable[[], object]]:
    """What makes two descriptors readable before the loop looks."""
    both: list[Callable[[], object]] = [lambda: wire.far.send(read(0, 4)), lambda: os.eventfd_write(fd, 1)]
    return both if first == "client" else both[::-1]


@FIRST
async def test_what_a_neighbour_asks_of_the_loop_in_the_same_round_comes_as_soon_as_ever(first: str) -> None:
    """libuv tells the kernel of a new descriptor only before it sleeps itself."""
    loop, done, fds = asyncio.get_running_loop(), asyncio.Event(), [os.eventfd(0), os.eventfd(1)]

    def neighbour() -> None:
        loop.remove_reader(fds[0])
        loop.add_reader(fds[1], new_one)

    def new_one() -> None:
        loop.remove_reader(fds[1])
        done.set()

    async with wires() as (wire,):
        await in_thread(lambda: wire.trips(100))
        loop.add_reader(fds[0], neighbour)
        await asyncio.sleep(0)
        rescue = threading.Timer(3 * LATE, wire.far.shutdown, [socket.SHUT_WR])
        rescue.start()
        began = time.monotonic()
        for send in in_order(first, wire, fds[0]):
            send()
        await done.wait()
        assert time.monotonic() - began < LATE
        rescue.cancel()
    for fd in fds:
        os.close(fd)


# -- its end ---------------------------------------------------------------------------------------------------------


async def test_lane_that_its_own_hook_closes_while_it_dozes() -> None:
    async with wires() as (wire,):
        wire.on_write = wire.lane.close

        def last_write() -> None:
            with suppress(AssertionError):  # the answer, or the end
                wire.write_while_it_dozes()
            assert wire.far.recv(4096) == b""

        await in_thread(last_write)


@FIRST
async def test_lane_that_another_callback_closes_in_the_same_round(first: str) -> None:
    loop, closed, fd = asyncio.get_running_loop(), asyncio.Event(), os.eventfd(0)

    def close() -> None:
        loop.remove_reader(fd)
        wire.lane.close()
        closed.set()

    async with wires() as (wire,):
        await in_thread(lambda: wire.trips(100))
        loop.add_reader(fd, close)
        await asyncio.sleep(0)
        for send in in_order(first, wire, fd):
            send()
        await closed.wait()
    os.close(fd)


async def test_end_of_the_client_is_told_while_it_dozes() -> None:
    async with wires() as (wire,):

        def leave() -> None:
            wire.trips(100)
            wire.far.shutdown(socket.SHUT_WR)

        await in_thread(leave)
        await asyncio.sleep(0)
        assert wire.flags[:1] == [_core.Pump.EOF]


def test_file_without_libuv_is_refused() -> None:
    loop = uvloop.new_event_loop()
    of_loop = libuv(loop)
    assert of_loop is not None
    pump = _core.Pump(_core.Stream(lambda *_: b"", lambda *_: None), 0)
    with pytest.raises(LocalError, match="libuv"):
        pump.doze("libc.so.6", of_loop[1])
    loop.close()
