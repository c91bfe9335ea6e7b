"""The client's commands on migration: the device's state as a number, and as a stream of bytes.

What the bytes mean is the server's own business; they are only carried. It must not know files or a second server.
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from vfuserver.client.channel import Reply
from vfuserver.client.region_commands import RegionCommands
from vfuserver.errors import PeerError
from vfuserver.session.commands.get_precopy_info import GetPrecopyInfo
from vfuserver.session.commands.mig_data_read import MigDataRead
from vfuserver.session.commands.mig_data_write import MigDataWrite
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.feature import Operation
from vfuserver.session.features.mig_data_size import MigDataSize
from vfuserver.session.features.mig_device_state import NO_FD, MigDeviceState
from vfuserver.session.features.migration import Migration
from vfuserver.vfio import MigrationFlags, MigrationState

STATE_TIMEOUT: Final = 60.0
"""Seconds that a change of state may take by default: it is answered when the last arc is done (S3.6)."""
UNDER_WAY: Final = 2
"""Pieces of state that are asked for, or given, at one time."""
AT_ONCE: Final = 32 << 10
"""Bytes that reach the other end of a UNIX socket in one piece with their header (Linux splits above 35 KiB or so).

libvfio-user takes what has arrived for the whole message, and loses its place in the stream if that was a part.
"""


class PrecopyInfo(NamedTuple):
    """Estimates of what is left to read before the device stops, in bytes."""

    initial_bytes: int
    dirty_bytes: int


class MigrationCommands(RegionCommands):
    """DEVICE_FEATURE 1, 2 and 9, GET_PRECOPY_INFO, MIG_DATA_READ and MIG_DATA_WRITE."""

    async def migration_flags(self) -> MigrationFlags:
        """What the device's migration can do. CommandError: it does not migrate."""
        return MigrationFlags(Migration.reply.unpack(await self.feature(Migration.number))[0])

    async def device_state(self) -> MigrationState:
        """The state that the device is in. CommandError; PeerError: one that is none."""
        number = MigDeviceState.reply.unpack(await self.feature(MigDeviceState.number))[0]
        try:
            return MigrationState(number)
        except ValueError:
            raise PeerError(f"the server says that its device is in state {number}, which is none") from None

    async def set_device_state(self, state: MigrationState, *, timeout: float = STATE_TIMEOUT) -> None:
        """Has the device go to a state, by whichever way leads there; returns when it is there.

        CommandError: it is elsewhere, see `device_state` (S3.7).
        """
        data = MigDeviceState.set_request.pack(state, NO_FD)
        await self.feature(MigDeviceState.number, Operation.SET, data, timeout=max(timeout, self.channel.timeout))

    async def data_size(self) -> int:
        """About how many bytes STOP_COPY would still give. CommandError: the server does not say."""
        return MigDataSize.reply.unpack(await self.feature(MigDataSize.number))[0]

    async def precopy_info(self) -> PrecopyInfo:
        """What is left to read before the device stops. CommandError: not in pre-copy, or the server does not say."""
        request = GetPrecopyInfo.request.pack(GetPrecopyInfo.request.size, 0, 0, 0)
        _, _, initial, dirty = GetPrecopyInfo.reply.unpack(await self.ask(GetPrecopyInfo, request))
        return PrecopyInfo(initial, dirty)

    @property
    def state_piece(self) -> int:
        """Bytes of state that one message carries at most: the smaller max_data_xfer_size of both ends."""
        return min(self.guest.max_transfer, self.server.max_data_xfer_size)

    async def read_state(self, size: int) -> bytes:
        """The stream's next `size` bytes, fewer where no more are there (now, or in STOP_COPY at all)."""
        data = bytearray()
        while len(data) < size:
            asked = min(size - len(data), self.state_piece)
            data += (piece := await self._piece(asked, self._ask_for_piece(asked)))
            if len(piece) < asked:
                break
        return bytes(data)

    async def state_pieces(self, most: int | None = None) -> AsyncGenerator[memoryview, None]:
        """The stream in pieces until one comes empty: its end in STOP_COPY, all that there is now in pre-copy; or until
        `most` bytes were asked for.

        A piece is asked for while the one before it is on its way: who does not take all of them loses one.
        """
        size, left = self.state_piece, sys.maxsize if most is None else most
        asked: deque[asyncio.Future[Reply]] = deque()
        try:
            while left > 0 or asked:
                while left > 0 and len(asked) < UNDER_WAY:
                    asked.append(self._ask_for_piece(size))
                    left -= size
                if piece := await self._piece(size, asked.popleft()):
                    yield piece
                else:
                    left = 0
        finally:
            for future in asked:
                self.channel.forget(future)

    async def write_state(self, data: bytes | bytearray | memoryview, most: int | None = None) -> None:
        """The stream's next bytes, which must not change meanwhile; returns when the server has taken all of them.

        At most `most` in a message, one by one. By default that is as many as both ends take, several under way, if the
        server says that it waits until a message is whole; else AT_ONCE.
        """
        whole = self.server.whole_messages and most is None
        step = min(self.state_piece, most or (self.state_piece if whole else AT_ONCE))
        rest, waiting = memoryview(data), deque[asyncio.Future[Reply]]()
        try:
            while rest or waiting:
                while rest and len(waiting) < (UNDER_WAY if whole else 1):
                    waiting.append(self._give_piece(rest[:step]))
                    rest = rest[step:]
                reply = await self.channel.reply(MigDataWrite.number, waiting.popleft(), STATE_TIMEOUT)
                Descriptors(reply.fds).close()
        finally:
            for future in waiting:
                self.channel.forget(future)

    def _give_piece(self, piece: memoryview) -> "asyncio.Future[Reply]":
        size = len(piece)
        return self.channel.submit(
            MigDataWrite.number, [MigDataWrite.request.pack(MigDataWrite.request.size + size, size), piece]
        )

    def _ask_for_piece(self, size: int) -> "asyncio.Future[Reply]":
        fixed = MigDataRead.request.size
        return self.channel.submit(MigDataRead.number, MigDataRead.request.pack(fixed + size, size))

    async def _piece(self, size: int, asked: "asyncio.Future[Reply]") -> memoryview:
        """What came for a MIG_DATA_READ. libvfio-user pads its reply up to the size that was asked for."""
        fixed = MigDataRead.request.size
        reply = self.complete(MigDataRead, await self.channel.reply(MigDataRead.number, asked, STATE_TIMEOUT))
        count = MigDataRead.reply.unpack(reply)[1]
        if count > size or len(reply) < fixed + count:
            raise PeerError(f"{len(reply) - fixed} bytes came as {count} for a MIG_DATA_READ of {size}")
        return memoryview(reply)[fixed : fixed + count]
