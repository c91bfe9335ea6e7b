"""The pump that waits for the next message, by what it counts: when it waits, when it stops, and who goes first."""

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.native.messages import message, read, replies, write
from vfuserver import _core
from vfuserver.errors import LocalError
from vfuserver.vfio import Later

SECOND = 1_000_000
"""A limit that no wait of a test comes to by itself, unless the machine stands still."""
FIELDS = [(0, 4, 1, bytes(4), 0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 0, 0), (4, 4, 1, bytes(4), 0, 0, 0, 0, 0, _core.WRITE_HOOK)]


class Polling:
    """A pump that polls on one end of a socket pair, the test on the other, and the loop's epoll between."""

    def __init__(self, limit_us: int) -> None:
        self.on_write: Callable[[int], object] = lambda value: None
        self.laters: list[object] = []
        table = _core.Table(_core.Layout(8, FIELDS), {1: (None, lambda value: self.on_write(value))})
        self.stream = _core.Stream(lambda *_: b"", lambda *_: None, on_later=self.laters.append)
        self.stream.regions = [(8, table)]
        self.stream.negotiated = True
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.near, select.EPOLLIN)
        self.other = os.eventfd(0)
        self.epoll.register(self.other, select.EPOLLIN)
        self.pump = _core.Pump(self.stream, self.near.fileno())
        self.pump.poll(limit_us, self.epoll.fileno())

    def send(self, data: bytes) -> None:
        self.far.send(data)

    def turn(self, data: bytes = read(0, 4)) -> int:
        """A turn in which these messages are there at once."""
        self.send(data)
        return self.pump.run()

    @contextmanager
    def answered_when_it_waits(self, times: int) -> Iterator[None]:
        """Meanwhile another thread sends a message in the middle of each of so many waits."""
        ended = threading.Event()

        def answer(waits: int) -> None:
            for _ in range(times):
                while self.count("spins")[0] <= waits:
                    if ended.wait(0.0002):
                        return
                waits = self.count("spins")[0]
                self.send(read(0, 4))

        thread = threading.Thread(target=answer, args=self.count("spins"))
        thread.start()
        yield
        ended.set()
        thread.join()

    def count(self, *names: str) -> list[int]:
        return [int(self.pump.polling[name]) for name in names]

    def close(self) -> None:
        self.stream.close()
        self.epoll.close()
        os.close(self.other)
        self.near.close()
        self.far.close()


@pytest.fixture
def made() -> Iterator[Callable[[int], Polling]]:
    everything: list[Polling] = []

    def make(limit_us: int = SECOND) -> Polling:
        everything.append(Polling(limit_us))
        return everything[-1]

    yield make
    for one in everything:
        one.close()


@pytest.fixture
def polling(made: Callable[[int], Polling]) -> Polling:
    """One whose limit no test comes to; a wait is a fifth of it."""
    return made(SECOND)


@pytest.fixture
def short(made: Callable[[int], Polling]) -> Polling:
    """One that waits in vain without making the test long."""
    return made(50_000)


def test_message_is_waited_for_behind_another(short: Polling) -> None:
    assert short.turn() == _core.Pump.READ
    assert short.count("spins", "hits", "window_us") == [1, 0, 10_000]
    assert short.pump.polling["seconds"] > 0


def test_message_that_comes_while_it_is_waited_for_is_served_in_the_same_turn(short: Polling) -> None:
    short.on_write = lambda value: short.send(read(0, 4, tag=7))
    assert short.turn(write(4, bytes(4))) == _core.Pump.READ
    assert [answer[0] for answer in replies(short.far.recv(4096))][-1] == 7
    assert short.count("spins", "hits") == [2, 1]


def test_limit_zero_never_waits(made: Callable[[int], Polling]) -> None:
    polling = made(0)
    for _ in range(10):
        polling.turn()
    assert polling.count("spins", "limit_us") == [0, 0]


def test_late_messages_end_the_waiting_for_longer_each_time(short: Polling) -> None:
    """A client that sleeps costs six short waits, then two in 18 turns, in 66, in 258..."""
    for turns, spins in ((6, 6), (16, 6), (2, 8), (64, 8), (2, 10), (256, 10), (2, 12)):
        for _ in range(turns):
            short.turn()
        assert short.count("spins", "hits") == [spins, 0]


def test_messages_that_are_there_at_once_end_the_waiting_too(polling: Polling) -> None:
    """They are of a client on the same processor, which sends before this thread looks: nothing is waited for."""
    polling.on_write = lambda value: polling.send(write(4, bytes(4), flags=0x10))
    assert polling.turn(write(4, bytes(4), flags=0x10)) == _core.Pump.READ
    assert polling.count("spins", "hits", "window_us") == [24, 24, 0]


def test_messages_that_come_in_the_middle_of_a_wait_outweigh_late_ones(made: Callable[[int], Polling]) -> None:
    polling = made(100_000)
    for _ in range(8):
        with polling.answered_when_it_waits(3):
            polling.turn()
    assert polling.count("spins", "hits", "window_us") == [32, 24, 20_000]


def test_client_that_writes_without_end_gives_the_loop_its_turn_at_the_limit(made: Callable[[int], Polling]) -> None:
    """No other connection, job or timer is later by more than the limit."""
    polling = made(20_000)
    with polling.answered_when_it_waits(1 << 30):
        assert polling.turn() == _core.Pump.READ
    assert polling.count("yields") == [0]


def test_anything_else_that_the_loop_watches_ends_the_wait_at_once(polling: Polling) -> None:
    os.eventfd_write(polling.other, 1)
    polling.turn()
    assert polling.count("spins", "hits", "yields", "window_us") == [1, 0, 1, 0]


def test_busy_neighbour_is_not_waited_beside_again_soon(polling: Polling) -> None:
    os.eventfd_write(polling.other, 1)
    for _ in range(17):
        polling.turn()
    assert polling.count("spins", "yields") == [1, 1]


def test_own_message_is_not_taken_for_a_neighbour(short: Polling) -> None:
    short.on_write = lambda value: short.send(read(0, 4))
    for _ in range(3):
        short.turn(write(4, bytes(4)))
    assert short.count("hits", "yields") == [3, 0]


def test_hook_that_has_given_the_loop_something_to_do_ends_the_turn(short: Polling) -> None:
    short.on_write = lambda value: _core.want_loop()
    short.turn(write(4, bytes(4)))
    assert short.count("spins") == [0]
    short.turn()
    assert short.count("spins") == [1]


def test_command_of_python_and_reply_go_back_to_the_loop(polling: Polling) -> None:
    """They complete what jobs wait for."""
    polling.turn(message(50))
    polling.turn(message(50, flags=1))
    assert polling.count("spins") == [0]


def test_held_command_is_not_waited_behind(polling: Polling) -> None:
    polling.on_write = lambda value: Later("a slow register")
    polling.turn(write(4, bytes(4)))
    polling.turn()
    assert (len(polling.laters), polling.count("spins")) == (1, [0])


def test_connection_that_is_read_no_more_is_not_waited_for(polling: Polling) -> None:
    polling.far.setblocking(False)
    polling.stream.send_limit = 0
    polling.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    flags = _core.Pump.READ
    while flags == _core.Pump.READ:
        flags = polling.turn(read(0, 4) * 50)
    before = polling.count("spins")
    polling.pump.run()
    assert (flags, polling.count("spins")) == (_core.Pump.WRITE, before)


def test_end_of_the_connection_is_met_while_waiting(polling: Polling) -> None:
    polling.on_write = lambda value: polling.far.shutdown(socket.SHUT_WR)
    assert polling.turn(write(4, bytes(4))) == _core.Pump.EOF


def test_stream_that_a_hook_closes_is_not_waited_for(polling: Polling) -> None:
    polling.on_write = lambda value: polling.stream.close()
    polling.turn(write(4, bytes(4)))
    assert polling.count("spins") == [0]


class Staying(Polling):
    """A pump that stays: only that waits."""

    def __init__(self, limit_us: int) -> None:
        super().__init__(limit_us)
        self.epoll.unregister(self.near)
        self.pump.poll(limit_us, self.epoll.fileno(), True)


@pytest.fixture
def staying() -> Iterator[Staying]:
    one = Staying(2000)
    yield one
    one.close()


def test_pump_that_stays_waits_however_often_in_vain_until_its_limit(staying: Staying) -> None:
    for count in range(1, 20):
        began = time.monotonic_ns()
        assert staying.pump.stay() == _core.Pump.READ
        assert time.monotonic_ns() - began >= 2_000_000
        assert staying.count("spins", "hits", "yields") == [count, 0, 0]
    assert staying.pump.polling["seconds"] > 19 * 0.0015  # the limit begins before what is counted


def test_pump_that_stays_serves_what_comes_meanwhile(staying: Staying) -> None:
    left = [3]

    def again(_: int) -> None:
        left[0] -= 1
        if left[0]:
            staying.send(write(4, bytes(4), tag=left[0]))

    staying.on_write = again
    staying.send(write(4, bytes(4), tag=9))
    assert staying.pump.stay() == _core.Pump.READ
    assert [answer[0] for answer in replies(staying.far.recv(4096))] == [9, 2, 1]
    assert staying.count("spins", "hits") == [4, 3]


def test_pump_that_stays_goes_back_to_a_loop_that_has_something_to_do(staying: Staying) -> None:
    os.eventfd_write(staying.other, 1)
    staying.pump.stay()
    assert staying.count("spins", "yields") == [1, 1]
    os.eventfd_read(staying.other)
    staying.on_write = lambda value: _core.want_loop()
    staying.send(write(4, bytes(4)))
    staying.pump.stay()
    assert staying.count("spins", "hits", "yields") == [2, 1, 1]


def test_client_that_writes_without_end_gives_the_loop_its_turn_also_from_a_pump_that_stays(staying: Staying) -> None:
    staying.on_write = lambda value: staying.send(write(4, bytes(4), flags=0x10))
    staying.send(write(4, bytes(4), flags=0x10))
    for _ in range(5):
        assert staying.pump.stay() == _core.Pump.READ


def test_pump_that_stays_waits_without_the_interpreter_also_while_a_command_is_held(staying: Staying) -> None:
    staying.on_write = lambda value: Later("a slow register")
    staying.send(write(4, bytes(4)))
    staying.pump.stay()
    assert (len(staying.laters), staying.stream.held) == (1, True)
    before = staying.count("spins")[0]
    staying.pump.stay()
    assert staying.count("spins") == [before + 1]


@pytest.mark.parametrize("move", ["run", "stay"])
def test_what_the_socket_has_not_taken_is_still_to_be_written_when_nothing_comes(staying: Staying, move: str) -> None:
    staying.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    flags = _core.Pump.READ
    while flags == _core.Pump.READ:
        flags = staying.turn(read(0, 4) * 50)
    both = _core.Pump.READ | _core.Pump.WRITE
    assert (flags, getattr(staying.pump, move)()) == (both, both)
    while staying.stream.queued:
        staying.far.recv(1 << 16)
        flags = getattr(staying.pump, move)()
    assert flags == _core.Pump.READ


def test_run_of_a_pump_that_stays_never_waits(staying: Staying) -> None:
    for _ in range(10):
        staying.turn()
    assert staying.count("spins") == [0]


def test_end_of_the_connection_and_a_closed_stream_end_the_stay(staying: Staying) -> None:
    staying.on_write = lambda value: staying.far.shutdown(socket.SHUT_WR)
    staying.send(write(4, bytes(4)))
    assert staying.pump.stay() == _core.Pump.EOF
    staying.stream.close()
    with pytest.raises(LocalError, match="closed"):
        staying.pump.stay()


def test_pump_that_stays_serves_registers_while_another_thread_has_the_interpreter(staying: Staying) -> None:
    """It is not asked for them: here it cannot be had before the answer is there."""
    staying.pump.poll(SECOND, staying.epoll.fileno(), True)
    staying.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 5, 0))
    thread = threading.Thread(target=staying.pump.stay)
    thread.start()
    while not staying.count("spins")[0]:
        time.sleep(0.001)
    with_the_interpreter, question = ctypes.PyDLL(None), read(0, 4)
    answer = ctypes.create_string_buffer(64)
    with_the_interpreter.send(staying.far.fileno(), question, len(question), 0)
    got = with_the_interpreter.recv(staying.far.fileno(), answer, len(answer), 0)
    os.eventfd_write(staying.other, 1)
    thread.join()
    assert got == 36
