"""What a supervisor keeps for the moment at which its server is killed: the server's end of it.

Theory of operation
-------------------
A supervisor is the parent of a server, holds duplicates of its descriptors, and knows what it needs to start another
one that goes on (`cli._supervising`, by way of `control.succession`). It is told by a channel:

    {"serving": process id}           this process serves from now on
    {"companions": {name: carried}}   what belongs to the server besides devices
    {"device": n, "kept": carried}    everything of a device and its connection, instead of what was told of it before
    {"device": n, "noted": [...]}     a command that changed the connection since

Everything of a device is kept every so many seconds, when a client comes or goes, after a reset or a change of
migration state, and when many commands have been noted. What is kept is told before the client gets its answer, so that
a client never knows more than the supervisor. The bytes of connections are in ledgers, which the supervisor has too, so
that every message is served once, whatever happens (native/core/ledger.h).

After a death the device is what it was when it was kept last; memory that clients may map is as they left it. It must
not know what devices and connections carry.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any, Final, Self

from vfuserver.control.channel import Channel
from vfuserver.engine import Server
from vfuserver.engine.serving import Serving
from vfuserver.errors import CommandError, UsageError, VfuserverError
from vfuserver.plain import Descriptor

log = logging.getLogger("vfuserver.control")

NAME: Final = "safekeeping"
MOST_NOTES: Final = 1000
"""Commands of one connection after which everything is kept anew: the supervisor holds their descriptors."""
SOON: Final = 0.01
"""Seconds until it is tried again to keep a device that is being accessed."""


class Kept:
    """One device's share: a `Keeper` of its connection."""

    def __init__(self, safekeeping: "Safekeeping", number: int) -> None:
        self._safekeeping, self._number = safekeeping, number
        self._notes = 0

    def note(self, number: int, message_id: int, payload: bytes, fds: Sequence[int]) -> None:
        """Tells of a command before it is done."""
        self._notes += 1
        self._safekeeping.tell(
            {"device": self._number, "noted": [number, message_id, payload, [Descriptor(fd) for fd in fds]]}
        )
        if self._notes >= MOST_NOTES:
            self._safekeeping.soon(self)

    def keep(self) -> None:
        """Tells everything now, or as soon as nobody waits for the device's answer."""
        server = self._safekeeping.server
        if self._number >= len(server.served):
            return  # it is just being added
        try:
            if server.still:
                raise CommandError(errno.EBUSY, "the server is being replaced")
            carried = server.served[self._number].kept()
        except VfuserverError as error:
            if isinstance(error, CommandError) and error.errno == errno.ENOTSUP:
                log.error("%s is not kept: %s", server.served[self._number].name, error.message)
            else:
                log.debug("device %d is kept later: %s", self._number, error)
                self._safekeeping.soon(self)
            return
        self._notes = 0
        self._safekeeping.tell({"device": self._number, "kept": carried})


def _must_be_portable(served: Serving) -> None:
    try:
        served.kept()
    except CommandError as error:
        if error.errno == errno.ENOTSUP:
            raise UsageError(f"--supervise: {error.message}") from error


class Safekeeping:
    """A server's end, from before its first device is added."""

    def __init__(self, server: Server, channel: Channel, every: float) -> None:
        """`every` is in seconds: how much of a device's work a death may cost."""
        self.server = server
        self._channel = channel
        self._every = every
        self._kept: list[Kept] = []
        self._timers: dict[Kept | None, asyncio.TimerHandle] = {}
        self._begun = False
        server.safe = self
        server.companions[NAME] = self

    @classmethod
    def of(cls, server: Server, fd: int, every: float) -> Self:
        """With the end of the channel that the supervisor has given to this process, which it owns from now on."""
        os.set_inheritable(fd, False)
        return cls(server, Channel(socket.socket(fileno=fd)), every)

    def keeper(self, number: int) -> Kept:
        """For one device."""
        self._kept.append(Kept(self, number))
        return self._kept[-1]

    def begin(self) -> None:
        """This process is about to serve: the supervisor is told everything, and kept informed. UsageError: a device
        can never be kept."""
        for served in self.server.served:
            _must_be_portable(served)
        self._begun = True
        self.tell({"serving": os.getpid()})
        self._keep_all()

    def tell_companions(self) -> None:
        """What belongs to the server besides devices has come, or changed."""
        others = {name: one.carry() for name, one in self.server.companions.items() if one is not self}
        self.tell({"companions": others})

    def tell(self, value: Any) -> None:
        """Without a supervisor the server goes on; the next death is the last one."""
        if not self._begun:
            return
        try:
            self._channel.send(value)
        except OSError as error:
            log.error("the supervisor does not hear any more: %s", error)
            self.leave()

    def soon(self, kept: Kept) -> None:
        """Has it kept a little later."""
        if self._begun and kept not in self._timers:
            self._after(SOON, kept, kept.keep)

    # -- a companion of the server

    def carry(self) -> Descriptor:
        """The channel."""
        return Descriptor(self._channel.fileno())

    def leave(self) -> None:
        """Nothing is told any more. Idempotent."""
        self._begun = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._channel.close()

    def _keep_all(self) -> None:
        for kept in self._kept:
            kept.keep()
        self._after(self._every, None, self._keep_all)

    def _after(self, seconds: float, key: Kept | None, call: Any) -> None:
        def due() -> None:
            self._timers.pop(key, None)
            call()

        self._timers[key] = asyncio.get_running_loop().call_later(seconds, due)
