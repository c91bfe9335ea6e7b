"""The command channel of a booted guest: one command out, its output and exit code back, byte for byte.

The other end is payload/init, which documents the lines. Commands go one at a time. Bytes that are no reply (what a
firmware or an old boot left in the port) are skipped until the next line that is one. It knows no QEMU: it is given
a connected socket.
"""

import asyncio
import base64
import re
import socket
from dataclasses import dataclass

from vfuserver.guest.errors import ChannelError

_HEAD = re.compile(rb"@vfu (\d+) (\d+) (\d+)\n$")
_READY = 0
_GRACE = 15.0
"""Seconds that a guest has, beyond a command's own, to kill the command and to say so."""

LONGEST_COMMAND = 40_000
"""Bytes of a command: a serial port has no flow control, and the guest's kernel buffers 64 KiB of its base64."""


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """What a command in the guest did: stdout and stderr together, as bytes, and its exit code."""

    command: str
    stdout: bytes
    returncode: int

    @property
    def text(self) -> str:
        """The output as text; bytes that are no UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")


class Channel:
    """Commands over one connected stream socket to the guest's second serial port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def open(cls, connected: socket.socket) -> "Channel":
        """The channel over `connected`, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=connected))

    async def close(self) -> None:
        """Close the socket."""
        self._writer.close()

    async def ready(self) -> str:
        """Wait until a guest says that it serves commands; what its /init had to say (failed modules). No timeout."""
        async with self._one_at_a_time:
            return (await self._reply_to(_READY))[1].decode(errors="replace")

    async def run(self, command: str, timeout: float = 60.0) -> CompletedCommand:
        """Run `command` by the guest's sh for at most `timeout` seconds (then it is killed and its code is 143).

        ChannelError when the guest does not answer at all, or has restarted meanwhile.
        """
        script = command.encode()
        if len(script) > LONGEST_COMMAND:
            raise ChannelError(f"a command of {len(script)} bytes; at most {LONGEST_COMMAND} fit through the channel")
        async with self._one_at_a_time:
            self._number += 1
            words = (str(self._number).encode(), str(max(1, round(timeout))).encode(), base64.b64encode(script))
            self._writer.write(b" ".join(words) + b"\n")
            try:
                async with asyncio.timeout(timeout + _GRACE):
                    returncode, stdout = await self._reply_to(self._number)
            except TimeoutError:
                raise ChannelError(f"the guest did not answer {command!r} within {timeout + _GRACE:.0f} s") from None
        return CompletedCommand(command, stdout, returncode)

    async def _reply_to(self, number: int) -> tuple[int, bytes]:
        """The exit code and the output of command `number`; replies to commands given up are dropped."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
                match = _HEAD.search(line)
                if match is None:
                    continue
                answered, returncode, size = (int(value) for value in match.groups())
                stdout = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise ChannelError("QEMU closed the guest's command channel") from None
            if answered == number:
                return returncode, stdout
            if answered == _READY:
                raise ChannelError("the guest restarted while a command was running")
