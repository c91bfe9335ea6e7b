"""A real stream with a small register map behind it, and what it was told."""

import os
from collections.abc import Sequence

from tests.native.messages import replies
from vfuserver import _core
from vfuserver.errors import CommandError, PeerError

ALL = 0xFFFFFFFF
HOOKS = _core.READ_HOOK | _core.WRITE_HOOK
LAYOUT = _core.Layout(
    4096,
    [
        (0x00, 4, 1, b"TEST", ALL, 0, 0, 0, 0, 0),  # 0: read only
        (0x04, 4, 1, bytes(4), ALL, 0, ALL, 0, 0, 0),  # 1: read and write
        (0x08, 4, 1, bytes(4), ALL, 0, ALL, 0, 0, HOOKS),  # 2: hooked
        (0x10, 8, 1, bytes(8), 2**64 - 1, 0, 2**64 - 1, 0, 0, 0),  # 3
        (0x20, 4, 1, bytes(4), ALL, 0, ALL, 0, 0, _core.STRICT),  # 4
        (0x30, 4, 1, bytes(4), ALL, 0, 0, 0, 0, _core.COUNT),  # 5
        (0x40, 4, 4, b"\xff" * 16, ALL, 0, 0, ALL, 0, 0),  # 6: write 1 to clear, an array
        (0x50, 4, 1, b"\xff" * 4, ALL, ALL, 0, 0, 0, 0),  # 7: cleared by reading
        (0x54, 4, 1, bytes(4), ALL, 0, 0, 0, ALL, 0),  # 8: write 1 to set
        (0x60, 8, 1, bytes(8), 2**64 - 1, 0, 2**64 - 1, 0, 0, _core.SPLIT_HIGH | _core.WRITE_HOOK),  # 9
        (0x100, 1, 256, bytes(256), 0xFF, 0, 0xFF, 0, 0, _core.MEMORY),  # 10
    ],
)
FAILS, BUG, WAITS = 0xEE, 0xBB, 0xAA
"""What register 2's hook makes of these values: CommandError(ENXIO), KeyError, an answer that comes later."""


class Peer:
    """A stream under test: feeds bytes, keeps commands, replies, laters and hook errors that it reported."""

    def __init__(self, *, max_transfer: int = 1 << 20) -> None:
        self.commands: list[tuple[int, int, int, bytes, list[int]]] = []
        self.answers: list[tuple[int, int, int, bytes]] = []
        self.laters: list[object] = []
        self.hook_errors: list[tuple[int, int, BaseException]] = []
        self.written: list[int] = []
        self.gate = _core.Gate(_core.Gate.RUNNING | _core.Gate.MEMORY)
        hooks = {2: (self._hooked_read, self._hooked_write), 9: (None, self.written.append)}
        self.table = _core.Table(LAYOUT, hooks, gate=self.gate, needs=_core.Gate.MEMORY)
        self.stream = _core.Stream(self._command, self._reply, max_transfer=max_transfer, on_later=self.laters.append)
        self.stream.on_hook_error = lambda *error: self.hook_errors.append(error)
        self.stream.regions = [(4096, self.table), (256, lambda _, count, data: None if data else bytes(count))]
        self.stream.negotiated = True

    def _hooked_read(self) -> object:
        return WaitingAnswer() if self.table.get(2) == WAITS else self.table.get(2) + 1

    def _hooked_write(self, value: int) -> object:
        self.written.append(value)
        if value == FAILS:
            raise CommandError(6, "no such device")
        if value == BUG:
            raise KeyError("a bug in the model")
        return None

    def _command(self, number: int, tag: int, flags: int, payload: bytes, fds: list[int]) -> object:
        self.commands.append((number, tag, flags, payload, fds))
        for fd in fds:
            os.close(fd)
        if payload == b"later":
            return WaitingAnswer()
        if payload == b"break":
            raise PeerError("this cannot be")
        if payload == b"refuse":
            raise CommandError(22)
        return payload

    def _reply(self, number: int, tag: int, error: int, payload: bytes, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        self.answers.append((number, tag, error, payload))

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[tuple[int, int, int, int, bytes]]:
        """Feeds and parses what came back."""
        return replies(b"".join(chunk for chunk, _ in self.stream.feed(data, fds)))

    def take(self) -> list[tuple[int, int, int, int, bytes]]:
        return replies(b"".join(chunk for chunk, _ in self.stream.take()))


class WaitingAnswer:
    """What the callbacks return instead of an answer: the stream knows only that it is neither int nor bytes."""
