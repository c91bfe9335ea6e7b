"""`serve --supervise`: the parent of a server, which starts another one when it is killed, with what it has kept.

What it is told, and when, is `control.safekeeping`; how the next server takes it over, `control.succession`. It serves
nothing and decodes nothing that a client sent: the less it does, the less can go wrong.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from vfuserver.cli import _anchor
from vfuserver.control.channel import Channel, Received
from vfuserver.control.safekeeping import NAME
from vfuserver.control.succession import FORMAT, OPTION, START, SUPERVISED, TAKE, own_command_line
from vfuserver.errors import VfuserverError
from vfuserver.plain import Descriptor

log = logging.getLogger("vfuserver.supervisor")

SHORT_LIFE: Final = 0.05
"""Seconds: a server that was killed earlier has not come far."""
MOST_SHORT_LIVES: Final = 5
"""So many of them one after the other, and it is given up."""


async def supervise() -> int:
    """Until the server ends by itself, or cannot be started any more; the exit code, or minus the signal."""
    supervisor = Supervisor(own_command_line())
    try:
        return await supervisor.run()
    finally:
        supervisor.close()


class Supervisor:
    """The parent of one server at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._kept: dict[int, Received] = {}
        self._noted: dict[int, list[Received]] = {}
        self._companions: Received | None = None
        self._serving = 0
        self._since = 0.0
        self._asked_to_end: signal.Signals | None = None
        self._ended: dict[int, int] = {}

    async def run(self) -> int:
        """See supervise()."""
        _anchor.adopt_orphans()
        self._listen_to_signals()
        channel, sock = Channel.pair()
        with sock:
            self._serving = _spawn([*self._command, SUPERVISED], sock)
        short_lives = 0
        while True:
            await self._hear(channel)
            channel.close()
            status = await self._status()
            if self._asked_to_end is not None or not self._kept or status == 0:
                return status
            log.error("the server (process %d) has ended with %s; another one goes on", self._serving, _said(status))
            short_lives = short_lives + 1 if time.monotonic() - self._since < SHORT_LIFE else 0
            if short_lives >= MOST_SHORT_LIVES:
                log.error("%d servers in a row did not live for %g s: given up", short_lives, SHORT_LIFE)
                return 1
            try:
                channel = await self._successor()
            except VfuserverError as error:
                log.error("process %d could not go on: %s", self._serving, error)
                return 1

    def close(self) -> None:
        """Gives back everything that was kept."""
        for received in [*self._kept.values(), *(one for noted in self._noted.values() for one in noted)]:
            received.close()
        if self._companions is not None:
            self._companions.close()

    # -- one server

    async def _hear(self, channel: Channel) -> None:
        """Keeps what a server tells, until nobody has its end any more."""
        while True:
            try:
                received = await channel.receive(None)
            except VfuserverError:
                return
            self._keep(received)

    def _keep(self, received: Received) -> None:
        said = received.value
        if "noted" in said:
            self._noted.setdefault(said["device"], []).append(received)
        elif "kept" in said:
            number = said["device"]
            for one in (self._kept.pop(number, None), *self._noted.pop(number, ())):
                if one is not None:
                    one.close()
            self._kept[number] = received
        elif "companions" in said:
            if self._companions is not None:
                self._companions.close()
            self._companions = received
        else:
            received.close()
            self._serving, self._since = said["serving"], time.monotonic()
            if self._asked_to_end is not None:  # who was told may have left by then
                os.kill(self._serving, self._asked_to_end)

    async def _status(self) -> int:
        """How the server has ended: its exit code, or minus the signal."""
        while self._serving not in self._ended:
            self._reap()
            await asyncio.sleep(0.001)
        return os.waitstatus_to_exitcode(self._ended.pop(self._serving))

    async def _successor(self) -> Channel:
        """Has a new process take over what was kept; the channel to it. VfuserverError: it cannot."""
        ours, sock = Channel.pair()
        succession, theirs = Channel.pair()
        with theirs:
            self._serving = _spawn([*self._command, OPTION], theirs)
        try:
            await _heard(succession, "ready", START)
            with sock:
                succession.send(self._carried(sock))
            await _heard(succession, "taken", TAKE)
            succession.send({"serve": True})
        except BaseException:
            ours.close()
            raise
        finally:
            sock.close()
            succession.close()
        return ours

    def _carried(self, channel: socket.socket) -> dict[str, Any]:
        """What a predecessor would carry."""
        numbers = sorted(self._kept)
        companions = {} if self._companions is None else self._companions.value["companions"]
        return {
            "format": FORMAT,
            "served": [self._kept[number].value["kept"] for number in numbers],
            "notes": [[one.value["noted"] for one in self._noted.get(number, ())] for number in numbers],
            "companions": {**companions, NAME: Descriptor(channel.fileno())},
        }

    # -- signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in _anchor.PASSED_ON:
            loop.add_signal_handler(number, self._pass_on, number)

    def _pass_on(self, number: signal.Signals) -> None:
        if number in _anchor.ENDING:
            self._asked_to_end = number
        os.kill(self._serving, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended[pid] = status


def _spawn(command: Sequence[str], sock: socket.socket) -> int:
    """Starts a server that inherits the socket, whose number is the last word. It is in a group of its own, so that it
    is told of Ctrl-C once, by us."""
    os.set_inheritable(sock.fileno(), True)
    return os.posix_spawn(command[0], [*command, str(sock.fileno())], os.environ, setpgroup=0)


async def _heard(channel: Channel, wanted: str, patience: float) -> None:
    with await channel.receive(patience) as received:
        if wanted not in received.value:
            raise VfuserverError("; ".join(received.value.get("refused", [repr(received.value)])))


def _said(status: int) -> str:
    return f"exit code {status}" if status >= 0 else signal.Signals(-status).name
