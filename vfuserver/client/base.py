"""What the client's commands stand on: one channel, what was negotiated, and whatever has to be closed in the end."""

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from vfuserver.client.channel import Channel, Reply
from vfuserver.client.guest_memory import Answer, GuestMap
from vfuserver.errors import CommandError, PeerError
from vfuserver.session.command import Command
from vfuserver.session.commands.version import Version
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.negotiation import Capabilities, parse_version_data, twin_fd_index, version_data

QEMU_PROPOSAL: Final[Mapping[str, Any]] = {
    "max_msg_fds": 16,
    "max_data_xfer_size": 1048576,
    "pgsizes": 4096,
    "max_dma_maps": 65535,
    "migration": {"pgsize": 4096, "max_bitmap_size": 268435456},
    "write_multiple": True,
}
"""What QEMU 10.1 to 11.1 proposes (field-notes C.2)."""

OWN_PROPOSAL: Final[Mapping[str, Any]] = {**QEMU_PROPOSAL, "whole_messages": True}
"""The same of a client that asks whether it may write state in large pieces."""

TWIN_PROPOSAL: Final[Mapping[str, Any]] = {**QEMU_PROPOSAL, "twin_socket": {"supported": True}}
"""The same with a twin socket, which QEMU does not know."""


class Closable(Protocol):
    """Something that the client owns."""

    def close(self) -> None:
        """Gives it back. Idempotent."""


Owned = TypeVar("Owned", bound=Closable)


class ClientBase:
    """A connected client: `negotiate` first, then commands."""

    def __init__(self, sock: socket.socket, *, timeout: float = 5.0) -> None:
        """`sock` is connected and owned from now on; `timeout` is in seconds, for each waited command."""
        self.guest = GuestMap()
        """What the server may reach by DMA messages."""
        self.channel = Channel(sock, self._serve, max_transfer=Capabilities().max_data_xfer_size, timeout=timeout)
        self.version: tuple[int, int] | None = None
        """The server's (major, minor), once negotiated."""
        self.server = Capabilities()
        """What the server can receive: the specification's defaults where it said nothing."""
        self.offered: Mapping[str, Any] = {}
        """The `capabilities` object of the server's VERSION as it came."""
        self.twin: Channel | None = None
        """The twin socket, if it was agreed on: the server's commands come there."""
        self._owned: list[Closable] = []

    async def negotiate(
        self, proposal: Mapping[str, Any] | None = OWN_PROPOSAL, version: tuple[int, int] = (0, 0)
    ) -> Capabilities:
        """VERSION: proposes `capabilities` (None: no version data) and learns the server's. PeerError.

        A proposal with a `twin_socket` (`TWIN_PROPOSAL`) gets the server's commands on a socket of their own, if the
        server has that.
        """
        data = b"" if proposal is None else version_data(proposal)
        request = Version.request.build(major=version[0], minor=version[1], data=data)
        reply = await self.channel.command(Version.number, request)
        with Descriptors(reply.fds) as fds:
            if len(reply.payload) < Version.reply.size:
                raise PeerError(f"the server's reply to VERSION has {len(reply.payload)} bytes")
            values = Version.reply.parse(reply.payload)
            if values.major != version[0]:
                raise PeerError(f"the server speaks version {values.major}.{values.minor}, must be {version[0]}.x")
            self.version = (values.major, values.minor)
            self._agree(Capabilities.stated(proposal or {}), parse_version_data(values.data) or {}, fds)
        return self.server

    def _agree(self, ours: Capabilities, offered: Mapping[str, Any], fds: Descriptors) -> None:
        self.offered = offered
        self.server = Capabilities.stated(offered)
        self.guest.max_transfer = ours.max_data_xfer_size
        self.channel.stream.max_transfer = max(ours.max_data_xfer_size, self.server.max_data_xfer_size)
        index = twin_fd_index(offered, len(fds)) if ours.twin_socket else None
        if index is not None:
            self._open_twin(socket.socket(fileno=os.dup(fds[index])))

    def _open_twin(self, sock: socket.socket) -> None:
        main = self.channel
        self.twin = Channel(
            sock,
            self.guest.serve,
            max_transfer=main.stream.max_transfer,
            timeout=main.timeout,
            on_end=lambda reason: main.end_after_reading(f"the twin socket: {reason}"),
        )

    def _serve(self, number: int, message_id: int, flags: int, payload: bytes, fds: list[int]) -> Answer:
        """A command of the server on the main socket."""
        if self.twin is None:
            return self.guest.serve(number, message_id, flags, payload, fds)
        with Descriptors(fds):
            raise CommandError(errno.EINVAL, f"command {number} came on the main socket, must come on the twin socket")

    async def command(
        self, number: int, payload: bytes = b"", fds: Sequence[int] = (), *, no_reply: bool = False
    ) -> Reply | None:
        """Any command, raw. The reply's descriptors are the caller's; None with `no_reply`."""
        if no_reply:
            self.channel.post(number, payload, fds)
            await self.channel.drain()
            return None
        return await self.channel.command(number, payload, fds)

    async def ask(
        self, command: type[Command], payload: bytes = b"", fds: Sequence[int] = (), *, timeout: float | None = None
    ) -> bytes:
        """A declared command whose reply carries no descriptors: its payload, complete in its fixed part."""
        return self.complete(command, await self.channel.command(command.number, payload, fds, timeout=timeout))

    async def ask_for_fds(self, command: type[Command], payload: bytes = b"") -> tuple[bytes, Descriptors]:
        """As `ask`, for a reply that may carry descriptors; they are the caller's to close."""
        reply = await self.channel.command(command.number, payload)
        if len(reply.payload) < command.reply.size:
            self.complete(command, reply)
        return reply.payload, Descriptors(reply.fds)

    def complete(self, command: type[Command], reply: Reply) -> bytes:
        """A reply's payload. PeerError: shorter than the command's fixed part. Descriptors are closed."""
        with Descriptors(reply.fds):
            if len(reply.payload) < command.reply.size:
                text = f"{len(reply.payload)} bytes, must be at least {command.reply.size}"
                raise PeerError(f"the server's reply to {command.name} has {text}")
            return reply.payload

    def own(self, thing: Owned) -> Owned:
        """Closes `thing` with the client."""
        self._owned.append(thing)
        return thing

    def close(self) -> None:
        """Closes the connection and all that the client has made. Idempotent."""
        self.channel.close()
        if self.twin is not None:
            self.twin.close()
        while self._owned:
            self._owned.pop().close()
