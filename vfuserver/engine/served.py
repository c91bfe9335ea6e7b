"""One device on its listener, and the client it has at the moment.

One client at a time: a newcomer is refused with a logged reason; but first what the present client has sent is taken
in, and if it has closed, the newcomer is served: so an immediate reconnect is never refused. It must not know what a
device is beyond the `Backend` contract.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vfuserver.engine.accepting import Accepting
from vfuserver.engine.device_loop import Asked
from vfuserver.engine.listen import Listener, is_listening
from vfuserver.errors import CommandError, UsageError
from vfuserver.plain import Descriptor
from vfuserver.session import Keeper, SessionOptions
from vfuserver.session.options import DEDICATED
from vfuserver.vfio import Backend

if TYPE_CHECKING:
    from vfuserver.engine.unix_socket import UnixConnection

_BETWEEN_LOOKS: Final = 0.002
"""Seconds until it is looked again whether a device can stand still."""


class Served:
    """One device on its listener, and the client it has at the moment."""

    def __init__(
        self,
        backend: Backend,
        listener: Listener,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        keeper: Keeper | None = None,
    ) -> None:
        """With a `keeper` the device and its connection outlive the process."""
        if options.poll == DEDICATED and not isinstance(loop, Asked):
            text = (
                f"{backend.name}: --poll dedicated needs a thread of its own: Server.add() it by a DeviceThread's serve"
            )
            raise UsageError(text)
        self._backend, self._options, self._loop, self._keeper = backend, options, loop, keeper
        self.listener = listener
        self._client: UnixConnection | None = None
        self._accepting: Accepting | None = None
        self._busy = ""  # what keeps it from standing still
        self._still_since = 0.0
        self.finished = loop.create_future()

    def begin(self) -> None:
        """From now on the device is served."""
        if is_listening(self.listener.socket):
            self._accepting = Accepting(self._loop, self.listener.socket, self._backend.name, self._newcomer)
        else:
            self._serve(self.listener.socket.dup())

    @property
    def name(self) -> str:
        """The device's."""
        return self._backend.name

    async def dump(self) -> dict[str, Any]:
        """The device, where it is served, and its client, as plain data (S4.26)."""
        path = self.listener.path
        return {
            "name": self._backend.name,
            "socket": None if path is None else str(path),
            **self._backend.dump(),
            "connection": None if self._client is None else self._client.dump(),
        }

    def _newcomer(self, newcomer: socket.socket) -> None:
        if self._client is not None and not self._client.peer_is_gone():
            self._client.session.log.provoked(logging.WARNING, "a second client is refused: this one is connected")
            newcomer.close()
            return
        self._serve(newcomer)

    def _serve(self, sock: socket.socket) -> None:
        self._client = self._connection(sock)
        self._keep()

    def _connection(self, sock: socket.socket, carried: Mapping[str, Any] | None = None) -> UnixConnection:
        from vfuserver.engine.unix_socket import UnixConnection  # sessions and commands: not before there is a client

        return UnixConnection(self._backend, sock, self._options, self._loop, self._gone, carried, self._keeper)

    def _gone(self, client: UnixConnection) -> None:
        if client is self._client:
            self._client = None
        if not is_listening(self.listener.socket) and not self.finished.done():
            self.finished.set_result(None)
        self._keep()

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.keep()

    # -- from process to process

    async def pause(self, patience: float) -> float:
        """Stands still: nobody is accepted, nothing is received or sent, the device does nothing.

        What is under way (a held command, DMA) may take `patience` seconds, in which the device is served as ever.
        Since when it does (time.monotonic()). CommandError: it cannot be handed over now (EBUSY), or ever (ENOTSUP); it
        goes on.
        """
        if self._accepting is not None:
            self._accepting.pause()
        self._busy = self.name
        try:
            async with asyncio.timeout(patience):
                while not await self._stands_still():
                    await asyncio.sleep(_BETWEEN_LOOKS)
                return self._still_since
        except TimeoutError:
            self.resume()
            text = f"{self.name} cannot be handed over now: {self._busy} is not done after {patience:g} s"
            raise CommandError(errno.EBUSY, text) from None
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """Goes on after pause(), or after it was taken over."""
        if self._accepting is not None:
            self._accepting.resume()
        self._backend.resume()
        self._resume_client()

    def kept(self) -> dict[str, Any]:
        """As carry(), at this moment, and it goes on: what waits in the streams lies in their ledgers.

        CommandError(EBUSY): not while an access waits for its answer."""
        self._backend.pause(at_once=True)
        try:
            return self.carry(streams=False)
        finally:
            self._backend.resume()

    def carry(self, *, streams: bool = True) -> dict[str, Any]:
        """Everything of the paused device and its connection, for another process (plain data, descriptors lent)."""
        return {
            "name": self.name,
            "device": self._backend.hand_over(),
            "path": None if self.listener.path is None else str(self.listener.path),
            "listener": Descriptor(self.listener.socket.fileno()),
            "client": None if self._client is None else self._client.carry(streams=streams),
        }

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes what carry() told of, paused: a device that was just made. CommandError, OSError, PeerError: not."""
        self._backend.take_over(carried["device"])
        client = carried["client"]
        if client is not None:
            sock = socket.socket(fileno=os.dup(client["sockets"][0].fd))
            try:
                self._client = self._connection(sock, client)
            except BaseException:
                sock.close()
                raise
        if is_listening(self.listener.socket):
            self._accepting = Accepting(self._loop, self.listener.socket, self._backend.name, self._newcomer)
            self._accepting.pause()

    def again(self, noted: Sequence[Any]) -> None:
        """Does what the process that was killed had noted after it had told the rest, except the message in hand."""
        client = self._client
        for number, message_id, payload, fds in noted:
            if client is not None and (number, message_id) != client.in_hand:
                client.session.again(number, payload, [one.fd for one in fds])
        if client is not None:
            client.session.connection.doubt_log()

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and neither client nor log are told."""
        if self._accepting is not None:
            self._accepting.close()
        self._backend.close()
        if self._client is not None:
            self._client.leave()
        self.listener.leave()

    async def _stands_still(self) -> bool:
        """True: nothing is under way, and device and connection are paused. False: look again, all goes on."""
        client = self._client
        if client is not None and client.session.held is not None:
            self._busy = client.session.held
            return False
        self._pause_client()
        try:
            await self._device_paused()
        except CommandError as error:
            if error.errno != errno.EBUSY:
                raise
            self._busy = error.message
        else:
            client = self._client
            if client is None or client.session.held is None:
                return True
            self._busy = client.session.held
            self._backend.resume()
        self._resume_client()
        return False

    async def _device_paused(self) -> None:
        """Has the device stop. While its DMA ends the client is served; at the end it is not any more."""
        later = self._backend.pause()
        if later is None:
            return
        self._busy = later.what
        self._resume_client()
        ended: asyncio.Future[object] = self._loop.create_future()

        def stopped(result: object) -> None:
            self._pause_client()
            if not ended.done():
                ended.set_result(result)

        later.when_done(stopped)
        try:
            result = await ended
        except BaseException:
            later.cancel()
            raise
        if isinstance(result, BaseException):
            raise result

    def _pause_client(self) -> None:
        self._still_since = time.monotonic()
        if self._client is not None:
            self._client.pause()

    def _resume_client(self) -> None:
        if self._client is not None:
            self._client.resume()

    def close(self) -> None:
        """Disconnects the client, stops listening, closes the device."""
        if self._accepting is not None:
            self._accepting.close()
        if self._client is not None:
            self._client.close("the server stops")
        if not self.finished.done():
            self.finished.set_result(None)
        self.listener.close()
        self._backend.close()
