"""Transfers of memory that may not be what the client itself sees: by the mapping and by messages, compared.

QEMU hands out the descriptor of a `memory-backend-file` whether or not it maps the file shared; of a private mapping
the guest never sees what is written here (field-notes G). Until a file of such a client is proven every transfer of it
is done both ways. It is proven by non-zero bytes that agree, or by bytes that were written through the mapping and
that a message then reads back; it is refused by the first bytes that differ, and the transfer is then done by message.
Bytes that are the same before and after prove nothing, and neither does a client that refuses the message: then the
mapping is used, and the next transfer asks again.

It must not know how else a file can be judged, nor who is told.
"""

import errno
from typing import Protocol

from vfuserver._core import PROT_READ, REFUSED, TRUSTED, UNPROVEN, Ioas
from vfuserver.errors import DmaError


class MessagePort(Protocol):
    """Reaches memory that is not mapped here. Both raise DmaError."""

    async def read(self, iova: int, length: int) -> bytes:
        """Asks the client for `length` bytes."""

    async def write(self, iova: int, data: memoryview) -> None:
        """Hands the client bytes to store; returns when it has."""


class Files(Protocol):
    """Whoever knows more of a client's files than the address space does."""

    def look(self) -> bool:
        """Settles unproven files without a transfer; whether any was settled."""

    def settled(self, source: int, proven: bool, iova: int) -> None:
        """A transfer at `iova` has settled whether a source is what the client sees."""


class Believed:
    """The files of a client that nobody doubts."""

    def look(self) -> bool:
        """There is nothing to settle."""
        return False

    def settled(self, source: int, proven: bool, iova: int) -> None:
        """Nobody asked."""


class Comparison:
    """Moves one area's part of an access, and settles what the file behind it is."""

    def __init__(self, ioas: Ioas, port: MessagePort, files: Files) -> None:
        self._ioas = ioas
        self._port = port
        self._files = files

    async def read(self, source: int, iova: int, length: int) -> bytes:
        """What the client says is there, whatever the mapping says. DmaError as the port, except EIO."""
        mapped = self._ioas.read_unproven(iova, length)
        told = await self._told(iova, length)
        if told is None:
            return mapped
        if mapped != told:
            self._settle(source, False, iova)
        elif any(told):
            self._settle(source, True, iova)
        return told

    async def write(self, source: int, iova: int, data: memoryview) -> None:
        """Stores `data` where the client sees it. DmaError as the port."""
        if not self._readable(iova, len(data)):
            await self._port.write(iova, data)
            return
        before = await self._told(iova, len(data))
        self._ioas.write_unproven(iova, data)
        after = None if before is None else await self._told(iova, len(data))
        if after is None:
            return
        if after != data:
            self._settle(source, False, iova)
            await self._port.write(iova, data)
        elif before != after:
            self._settle(source, True, iova)

    async def _told(self, iova: int, length: int) -> bytes | None:
        """What the client says is there; None if it refuses to say."""
        try:
            return await self._port.read(iova, length)
        except DmaError as error:
            if error.errno != errno.EIO:
                raise
            return None

    def _readable(self, iova: int, length: int) -> bool:
        try:
            self._ioas.plan(iova, length, PROT_READ)
        except DmaError:
            return False
        return True

    def _settle(self, source: int, proven: bool, iova: int) -> None:
        if (source, UNPROVEN) in [(known, trust) for known, _, trust in self._ioas.files()]:  # and not gone meanwhile
            self._ioas.trust(source, TRUSTED if proven else REFUSED)
            self._files.settled(source, proven, iova)
