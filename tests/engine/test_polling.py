"""Polling for the next message, through the engine on both loops: who is told of it, and what it leaves alone."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.native.messages import replies, write
from vfuserver import _core
from vfuserver.client import Client
from vfuserver.device.loader import load
from vfuserver.device.run import Brake, Run
from vfuserver.engine import Server, listen
from vfuserver.engine.lane import Lane
from vfuserver.engine.polling import NONE, loop_fd
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions


async def polling_of(server: Server) -> dict[str, Any]:
    (served,) = server.served
    found: dict[str, Any] = (await served.dump())["connection"]["polling"]
    return found


async def test_both_loops_say_what_they_sleep_on() -> None:
    assert loop_fd(asyncio.get_running_loop()) > 2


def test_unknown_loop_has_no_descriptor() -> None:
    unknown: Any = object()
    assert loop_fd(unknown) == NONE


@pytest.mark.parametrize(("options", "limit"), [({}, 50), ({"poll_us": 20}, 20), ({"poll": "off"}, 0)])
async def test_connection_polls_as_its_options_say(folder: Path, options: dict[str, Any], limit: int) -> None:
    async with Server(SessionOptions(**options)) as server:
        server.add(load("testdev")(), listen(folder / "s"))
        async with await Client.connect(folder / "s") as client:
            await client.enable()
            for _ in range(100):
                await client.region_read(0, 4, 4)
            assert (await polling_of(server))["limit_us"] == limit
            assert bool((await polling_of(server))["spins"]) <= bool(limit)


@pytest.mark.parametrize("wrong", [{"poll": "always"}, {"poll_us": 0}, {"poll_us": 1001}])
def test_option_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        SessionOptions(**wrong)


async def test_answer_on_the_same_loop_ends_the_wait(folder: Path) -> None:
    """The client lives on the server's loop: its socket is what else the loop has to do, once it has its answer."""
    async with Server(SessionOptions(poll_us=1000)) as server:
        server.add(load("testdev")(), listen(folder / "s"))
        async with await Client.connect(folder / "s") as client:
            await client.enable()
            for _ in range(200):
                await client.region_read(0, 4, 4)
            found = await polling_of(server)
    assert found["yields"] == found["spins"]
    assert found["hits"] == 0


class PollingLane:
    """A lane that polls on one end of a socket pair, with one register behind it whose writes the test sees."""

    def __init__(self, on_write: Callable[[int], object]) -> None:
        field = (0, 4, 1, bytes(4), 0, 0, 0, 0, 0, _core.WRITE_HOOK)
        table = _core.Table(_core.Layout(4, [field]), {0: (None, on_write)})
        self.stream = _core.Stream(lambda *_: b"", lambda *_: None)
        self.stream.regions = [(4, table)]
        self.stream.negotiated = True
        near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.lane = Lane(
            asyncio.get_running_loop(), near, self.stream, lambda flags: self.lane.watch(flags), exit, 1000
        )
        self.lane.watch(_core.Pump.READ)

    def write(self, tag: int) -> None:
        self.far.send(write(0, bytes(4), tag=tag))

    async def answers(self, count: int) -> list[int]:
        got = b""
        while len(got) < 32 * count:
            got += await asyncio.get_running_loop().sock_recv(self.far, 4096)
        return [answer[0] for answer in replies(got)]

    def close(self) -> None:
        self.lane.close()
        self.stream.close()
        self.far.close()


async def test_lane_that_is_paused_in_the_middle_of_a_turn_receives_nothing_more() -> None:
    """What comes while a server is handed over waits in the socket, for whoever goes on."""
    written: list[int] = []

    def pause_at_the_second(value: int) -> None:
        written.append(value)
        if len(written) == 2:
            wire.lane.pause()
            wire.write(3)

    wire = PollingLane(pause_at_the_second)
    wire.write(1)
    assert await wire.answers(1) == [1]
    wire.write(2)
    assert await wire.answers(1) == [2]
    await asyncio.sleep(0)
    assert (len(written), wire.stream.received) == (2, 2)
    wire.lane.resume()
    assert await wire.answers(1) == [3]
    wire.close()


async def test_what_an_access_has_started_begins_before_the_next_message_is_waited_for() -> None:
    """A job's task wants the loop."""
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(written))

    def start(value: int) -> None:
        written.append(value)
        tasks.append(Run(work(), Brake(), lambda *_: None, what="work"))
        tasks[-1].launch()
        if len(written) < 5:
            wire.write(len(written))

    written: list[int] = []
    tasks: list[Run] = []
    wire = PollingLane(start)
    wire.write(0)
    assert await wire.answers(5) == list(range(5))
    await asyncio.sleep(0)
    assert begun == [1, 2, 3, 4, 5]
    wire.close()
