"""One process of a server takes over from another, without the clients noticing more than a pause.

Theory of operation
-------------------
The one that serves starts its successor, with its own command line and one end of a channel, and serves on. The
successor, perhaps of newer code, makes its devices and says that it is ready, or why not. Then the one that serves
stands still, tells everything that devices and connections are, descriptors included, and waits. Either the successor
takes it over, and serves from the moment that it is told to; the other one then gives back its part without telling
anybody. Or it refuses, or is not heard of in time, and the one that served goes on as if nothing had been. At no time
do both of them serve.

    successor:    {"ready": names of its devices}          or {"refused": lines}
    predecessor:  {"format": FORMAT, ...} and what Server.carry() gives
    successor:    {"taken": its process id}                or {"refused": lines}
    predecessor:  {"serve": true}

It must not know what devices and connections are, nor how a successor makes its own.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from vfuserver.control.channel import Channel, Received
from vfuserver.engine import Server
from vfuserver.errors import UsageError, VfuserverError

log = logging.getLogger("vfuserver.control")

OPTION: Final = "--take-over"
"""The option of the command line that names the successor's end of the channel."""
SUPERVISED: Final = "--supervised"
"""The option that names the channel to a supervisor (control.safekeeping)."""
FORMAT: Final = 1
"""Counts how what is carried looks: code that knows another one refuses, and says so."""
START: Final = 60.0
"""Seconds that a successor may take until it is ready: it may have to read half a hard disk."""
STILL: Final = 3.0
"""Seconds until all devices stand still; a client waits 5 for its answer (S1.11)."""
TAKE: Final = 10.0
"""Seconds that it may take to take over; the clients wait."""


@dataclass(frozen=True, slots=True)
class Succession:
    """What has been done: who serves now, and for how many seconds nobody did."""

    pid: int
    pause: float


class NotReplacedError(VfuserverError):
    """Nobody has taken over, and the present process goes on; `lines` say why."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("not replaced, the present process goes on:\n  " + "\n  ".join(self.lines))


def own_command_line() -> list[str]:
    """How this process was started, without what only it was told: that comes last."""
    words = [sys.executable, *sys.orig_argv[1:]]
    ends = [words.index(option) for option in (OPTION, SUPERVISED) if option in words]
    return words[: min(ends)] if ends else words


async def hand_over(server: Server, command: Sequence[str]) -> Succession:
    """Has a new process, started by `command`, take over what `server` serves; afterwards that has nothing any more.

    NotReplacedError: it serves as before. One attempt at a time: UsageError for another one meanwhile.
    """
    if server.left:
        raise UsageError("the server has been replaced already")
    if server.handing_over:
        raise UsageError("the server is being replaced at this moment: wait until that has ended")
    server.handing_over = True
    ours, theirs = Channel.pair()
    process = None
    try:
        process = _started(command, theirs)
        succession = await _attempt(server, ours, process)
        process = None
        return succession
    finally:
        server.handing_over = False
        ours.close()
        if process is not None:
            _end(process)


def _started(command: Sequence[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    with theirs:
        words = [*command, OPTION, str(theirs.fileno())]
        try:
            return subprocess.Popen(  # in a group of its own, so that it hears of Ctrl-C once, by what stays of us
                words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            raise NotReplacedError([f"{command[0]} cannot be started: {error.strerror}"]) from error


async def _attempt(server: Server, channel: Channel, process: subprocess.Popen[bytes]) -> Succession:
    """VfuserverError: it failed, and `server` serves."""
    await _answer(channel, "ready", START, process)
    began = await server.pause(STILL)
    try:
        channel.send({"format": FORMAT, **server.carry()})
        await _answer(channel, "taken", TAKE, process)
        channel.send({"serve": True})
    except BaseException:
        server.resume()
        raise
    pause = time.monotonic() - began
    log.info("process %d has taken over; nobody served for %.1f ms", process.pid, pause * 1000)
    server.leave()
    return Succession(process.pid, pause)


async def _answer(channel: Channel, wanted: str, patience: float, process: subprocess.Popen[bytes]) -> None:
    """NotReplacedError: it said anything else, or nothing."""
    try:
        with await channel.receive(patience) as received:
            said = received.value
    except (VfuserverError, OSError) as error:
        code = process.poll()
        how = f"it ended with {code}; its log says more" if code is not None else str(error)
        raise NotReplacedError([f"the new process {process.pid} was not {wanted}: {how}"]) from error
    if isinstance(said, Mapping) and wanted in said:
        return
    lines = said.get("refused") if isinstance(said, Mapping) else None
    raise NotReplacedError(lines if lines else [f"the new process says {said!r:.80}, must say {wanted}"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """It closes by itself once the channel is closed; what does not is killed."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Predecessor:
    """The process that this one takes over from: `with Predecessor(fd) as predecessor`."""

    def __init__(self, fd: int) -> None:
        """UsageError: `fd` is not the end of a channel."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise UsageError(f"{OPTION} {fd} must be an open socket: {error.strerror}") from error
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            sock.detach()
            raise UsageError(f"{OPTION} {fd} is for a process that is started to replace another, not for people")
        os.set_inheritable(fd, False)
        self._channel = Channel(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    async def carried(self, names: Sequence[str]) -> Received:
        """Says that devices of these names are ready; what there is to take over. VfuserverError: nothing, or nothing
        that this code knows."""
        self._channel.send({"ready": list(names)})
        received = await self._channel.receive(START)
        if received.value.get("format") != FORMAT:
            received.close()
            text = f"the new code takes over format {FORMAT}, not {received.value.get('format')}: restart the server"
            raise UsageError(text)
        return received

    def refuse(self, error: Exception) -> bool:
        """It stays the other one's; why. A text of several lines is a list. False: nobody hears it."""
        text = error.message if hasattr(error, "message") else str(error)
        try:
            self._channel.send({"refused": str(text).splitlines() or [repr(error)]})
        except OSError as gone:
            log.warning("nobody hears why it is refused: %s", gone.strerror)
            return False
        return True

    async def taken(self) -> None:
        """Says that all of it is taken over; from the return on this process serves. VfuserverError: it must not."""
        self._channel.send({"taken": os.getpid()})
        with await self._channel.receive(TAKE) as received:
            if received.value != {"serve": True}:
                raise VfuserverError(f"the process before this one says {received.value!r:.80}, must say serve")
