"""A session driven in memory: messages in, messages out, a clock that stands still until it is told to go on."""

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vfuserver.session import Command, Session, SessionOptions
from vfuserver.session.command import COMMANDS
from vfuserver.session.commands.version import Version
from vfuserver.vfio import Backend
from vfuserver.wire import Header, command_message, reply_message, split_message

QEMU_JSON = (
    b'{"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535, '
    b'"migration": {"pgsize": 4096, "max_bitmap_size": 268435456}, "write_multiple": true}}\0'
)


class Timer:
    """What `Clock.schedule` returns."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """A manual scheduler."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def schedule(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.at <= self.now]:
            self.timers.remove(timer)
            if timer.callback:
                timer.callback()


class Message(NamedTuple):
    """One message that the session sent."""

    header: Header
    payload: bytes
    fds: tuple[int, ...]

    @property
    def errno(self) -> int:
        return self.header.error if self.header.is_error else 0


SPECIFIED = SessionOptions(quirks={"message-dma": "spec", "private-memory": "trust"})
"""No question before the first DMA message."""

EVERYTHING = replace(SPECIFIED, migration="both")
"""Every command there is."""


class Wire:
    """The client's end of an in-memory connection. Descriptors that the session sent are closed by `close`."""

    def __init__(self, backend: Backend, options: SessionOptions | None = None, **ports: Any) -> None:
        self.backend = backend
        self.clock = Clock()
        self.outputs = 0
        self.received: list[int] = []
        self._last_id = 0
        ports.setdefault("peer_pid", os.getpid())  # the client is this process
        self.session = Session(
            backend, options or SPECIFIED, schedule=self.clock.schedule, on_output=self._output, **ports
        )

    def _output(self) -> None:
        self.outputs += 1

    # -- sending

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Message]:
        """Feeds bytes; descriptors stay the caller's (copies are sent, as a socket does)."""
        return self._messages(self.session.feed(data, [os.dup(fd) for fd in fds]))

    def take(self) -> list[Message]:
        """What was queued outside a feed."""
        return self._messages(self.session.stream.take())

    def send(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> list[Message]:
        self._last_id = (self._last_id + 1) & 0xFFFF
        return self.feed(command_message(number, self._last_id, payload, flags), fds)

    def ask(self, command: type[Command], payload: bytes = b"", fds: Sequence[int] = ()) -> Message:
        """One command; its one reply."""
        (message,) = self.send(command.number, payload, fds)
        assert message.header.is_reply
        assert (message.header.command, message.header.message_id) == (command.number, self._last_id)
        return message

    def reply(self, to: Message, payload: bytes = b"") -> list[Message]:
        """Answers a command of the session."""
        return self.feed(reply_message(to.header.command, to.header.message_id, payload))

    def negotiate(self, data: bytes = QEMU_JSON) -> Message:
        return self.ask(Version, Version.request.build(major=0, minor=0, data=data))

    # -- receiving

    def _messages(self, outputs: list[tuple[bytes, tuple[int, ...]]]) -> list[Message]:
        messages = []
        for data, fds in outputs:
            self.received += fds
            while data:
                size = struct.unpack_from("=I", data, 4)[0]
                header, payload = split_message(data[:size])
                messages.append(Message(header, payload, fds))
                data, fds = data[size:], ()
        return messages

    def close(self, reason: str = "the test is over") -> None:
        self.session.close(reason)
        while self.received:
            os.close(self.received.pop())


def command(number: int) -> type[Command]:
    """A declared command."""
    found = COMMANDS.get(number)
    assert found is not None
    return found
