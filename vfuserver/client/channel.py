"""Commands out, replies back, over one connected socket: message ids, futures, time-outs, descriptors.

The bytes go through the same core as the server's (`Stream` and `Pump`), in the client's role: no regions, so every
command that the server sends comes to `serve`, which may answer by a coroutine (then further ones wait, in order), and
every reply to `_take_reply`, which finds its future by message id. Commands may be pipelined: `submit` queues one and
returns its future; everything queued in one turn of the loop leaves in one sendmsg. An id whose caller gave up is not
used again before its late reply has come.

It must not know any command's layout.
"""

import asyncio
import errno
import itertools
import logging
import os
import select
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from vfuserver._core import Pump, Stream
from vfuserver.client.errors import DisconnectedError, ReplyTimeoutError
from vfuserver.errors import CommandError, LocalError
from vfuserver.wire import NO_REPLY, command_head, command_message

log = logging.getLogger("vfuserver.client")

MAX_ID: Final = 1 << 16
QUEUE_LIMIT: Final = 1 << 20
"""Bytes queued above which `drain` waits for the server to read."""

Data: TypeAlias = bytes | bytearray | memoryview
Payload: TypeAlias = bytes | list[Data]

Serve = Callable[[int, int, int, bytes, list[int]], Any]
"""serve(number, message id, flags, payload, fds): answers a command of the server, by a payload (see `Stream`) or by a
coroutine that returns one."""


class Reply(NamedTuple):
    """A successful reply. The descriptors belong to whoever gets it."""

    payload: bytes
    fds: list[int]


class Channel:
    """One connection of a client, from a connected socket (owned from now on) to `close`."""

    def __init__(
        self,
        sock: socket.socket,
        serve: Serve,
        *,
        max_transfer: int,
        timeout: float,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`timeout` is in seconds, for each waited command; `on_end(reason)` is told of the end of the connection."""
        self.timeout = timeout
        self._on_end = on_end
        self.stream = Stream(serve, self._take_reply, max_transfer=max_transfer, on_later=self._answer_later)
        self.stream.negotiated = True
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._pump = Pump(self.stream, sock.fileno())
        self._ids = itertools.cycle(range(MAX_ID))
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._answering: asyncio.Task[bytes] | None = None
        self._drained: asyncio.Event = asyncio.Event()
        self._flushing = self._writing = False
        self.ended: str | None = None
        """Why the connection is over, or None."""
        self._loop.add_reader(sock.fileno(), self._readable)

    # -- commands

    def submit(self, number: int, payload: Payload = b"", fds: Sequence[int] = ()) -> "asyncio.Future[Reply]":
        """Queues a command; its future ends with the reply or an error. `fds` stay the caller's.

        A payload in pieces is sent without a copy: they must not change before the reply.
        """
        message_id = self._free_id()
        if isinstance(payload, list):
            self._queue([command_head(number, message_id, sum(map(len, payload))), *payload], fds)
        else:
            self._queue(command_message(number, message_id, payload), fds)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[message_id] = future
        return future

    def post(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Queues a command with No_reply: nobody learns how it ended."""
        self._queue(command_message(number, self._free_id(), payload, NO_REPLY), fds)

    async def command(
        self, number: int, payload: bytes = b"", fds: Sequence[int] = (), *, timeout: float | None = None
    ) -> Reply:
        """Sends a command and waits for its reply, `timeout` seconds if this one is slower than others.

        CommandError, ReplyTimeoutError, DisconnectedError.
        """
        return await self.reply(number, self.submit(number, payload, fds), timeout)

    async def reply(self, number: int, future: "asyncio.Future[Reply]", timeout: float | None = None) -> Reply:
        """Waits for the reply to a command that was submitted, likewise."""
        seconds = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise ReplyTimeoutError(
                f"no reply to command {number} within {seconds:g} s ({len(self._waiting)} commands are waiting)"
            ) from None

    @staticmethod
    def forget(future: "asyncio.Future[Reply]") -> None:
        """Nobody waits for this reply any more, however it is."""
        if not future.cancel() and future.exception() is None:
            for fd in future.result().fds:
                os.close(fd)

    async def drain(self) -> None:
        """Returns when the queue is short: at once, unless the server does not read."""
        while self.stream.queued > QUEUE_LIMIT and self.ended is None:
            self._drained.clear()
            self._flush()
            if self.stream.queued > QUEUE_LIMIT and self.ended is None:
                await self._drained.wait()
        self._must_be_open()

    def close(self) -> None:
        """Sends what is queued as far as the socket takes it, and closes. Idempotent."""
        if self._socket.fileno() < 0:
            return
        if self.ended is None:
            self._flush()
        self.end("the client has closed the connection")
        if self._answering is not None:
            self._answering.cancel()
        self.stream.close()
        self._socket.close()

    def end(self, reason: str) -> None:
        """The connection is over: nothing is read or sent any more, whoever waits for a reply gets `reason`."""
        if self.ended is not None:
            return
        self.ended = reason
        self._loop.remove_reader(self._socket.fileno())
        self._watch_writable(False)
        self._drained.set()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(DisconnectedError(reason))
        if self._on_end is not None:
            self._on_end(reason)

    def end_after_reading(self, reason: str) -> None:
        """The same, after everything that the server had sent was taken in."""
        if self.ended is not None:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while self.ended is None and self.stream.wants_read and poll.poll(0):
            self._readable()
        self.end(reason)

    # -- inside

    def _answer_later(self, answer: object) -> None:
        assert isinstance(answer, Coroutine)
        self._answering = self._loop.create_task(answer)
        self._answering.add_done_callback(self._answered)

    def _answered(self, answer: "asyncio.Task[bytes]") -> None:
        """The server is told what came of it: CommandError's errno, EIO for any other error."""
        if answer.cancelled():
            return
        error = answer.exception()
        result = answer.result() if error is None else error
        if error is not None and not isinstance(error, CommandError):  # such as the end of another connection
            log.warning("the server is answered EIO: %s", error)
            result = CommandError(errno.EIO, str(error))
        if self.ended is None:
            self.stream.complete(result)
            self._flush()

    def _must_be_open(self) -> None:
        if self.ended is not None:
            raise DisconnectedError(self.ended)

    def _free_id(self) -> int:
        if len(self._waiting) == MAX_ID:
            raise LocalError(f"{MAX_ID} commands are waiting for their replies, must be fewer")
        return next(message_id for message_id in self._ids if message_id not in self._waiting)

    def _queue(self, message: bytes | list[Data], fds: Sequence[int]) -> None:
        self._must_be_open()
        self.stream.send(message, fds)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _take_reply(self, number: int, message_id: int, error: int, payload: bytes, fds: list[int]) -> None:
        future = self._waiting.pop(message_id, None)
        if future is not None and not future.done() and not error:
            future.set_result(Reply(payload, fds))
            return
        for fd in fds:
            os.close(fd)
        if future is not None and not future.done():
            future.set_exception(CommandError(error, f"the server refused command {number}"))
        else:  # whoever gave up has said so; a reply to nothing is the server's mistake
            level = logging.WARNING if future is None else logging.INFO
            log.log(level, "a reply to command %d (message %d) that nobody waits for", number, message_id)

    def _readable(self) -> None:
        self._after(self._pump.run())

    def _flush(self) -> None:
        self._flushing = False
        if self.ended is None:
            self._after(self._pump.flush())

    def _after(self, flags: int) -> None:
        if flags & Pump.BROKEN:
            reason = self.stream.broken or os.strerror(self._pump.error)
            self.end(f"the stream from the server is broken: {reason}")
        elif flags & Pump.EOF:
            self.end("the server has closed the connection")
        else:
            self._watch_writable(bool(flags & Pump.WRITE))
        if self.stream.queued <= QUEUE_LIMIT:
            self._drained.set()

    def _watch_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._socket.fileno())
        self._writing = wanted
