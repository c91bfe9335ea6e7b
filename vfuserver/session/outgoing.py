"""DMA_READ and DMA_WRITE to the client: how a device reaches memory that is not mapped here.

A transfer is cut into pieces no larger than the smaller of both sides' max_data_xfer_size. Pieces are pipelined under
message ids of our own, at most PIECES and about BYTES of them at one time, so that a client that does not read cannot
make us hold more. A transfer ends with its last reply, or at once: with EIO when the client answers with an error,
with EFAULT when its range is unmapped, with ENODEV when the client goes. The ids of pieces still under way are kept
until their replies come, and what those carry is dropped.

Where data lie in a message is `dma_layout`'s to say. A peer whose layout is not known is asked first, by a DMA_WRITE
of no bytes: nothing else is sent until that is answered, an error reply fails what waited (it tells nothing, the next
transfer asks again), and a reply of the wrong size makes the layout unknown again (S0.14).

The rule that must never be broken: no command of the same connection may wait for a DMA reply, because QEMU answers
only after we have (seen: 5 s, then a dead connection). Code whose completion a command waits for is marked by
`ANSWERING`; it gets EDEADLK here at once. Somebody else's job may well start a transfer while a command is held: it
waits until that is answered, unless it has a socket of its own (`move`, the twin socket). The twin socket does not lift
the rule itself: a client may well serve both sockets in one thread, and a model must not work with some clients only.

It must not know the IOAS or the device. It imports asyncio for the futures that a caller awaits, inside that call.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from vfuserver._core import Stream
from vfuserver.errors import DmaError
from vfuserver.session.dma_layout import DmaLayout, LayoutChoice
from vfuserver.session.log import ConnectionLog
from vfuserver.vfio import ANSWERING
from vfuserver.wire import command_message

PIECES: Final = 16
"""Messages under way at one time."""
BYTES: Final = 4 << 20
"""Bytes under way above which no further message is sent."""
MAX_ID: Final = 1 << 16


class _Transfer:
    """One read (`data` None) or write, until its last piece is answered."""

    __slots__ = ("buffer", "data", "done", "iova", "length", "sent", "settled")

    def __init__(self, iova: int, length: int, data: memoryview | None, done: "asyncio.Future[None]") -> None:
        self.iova = iova
        self.length = length
        self.data = data
        self.buffer = bytearray(length if data is None else 0)
        self.done = done
        self.sent = self.settled = 0

    def fail(self, error: DmaError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def settle(self, count: int) -> None:
        self.settled += count
        if self.settled == self.length and not self.done.done():
            self.done.set_result(None)


class _Piece:
    """One message under way, in the layout that it was sent in."""

    __slots__ = ("at", "count", "layout", "transfer")

    def __init__(self, transfer: _Transfer, at: int, count: int, layout: DmaLayout) -> None:
        self.transfer = transfer
        self.at = at
        self.count = count
        self.layout = layout


class _Forgotten:
    """A message of the process before this one: its reply is taken in, and nobody waits for it."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class Outgoing:
    """The message port of one connection (an `iommu.MessagePort`)."""

    def __init__(
        self,
        stream: Stream,
        read: int,
        write: int,
        layout: LayoutChoice,
        flush: Callable[[], None],
        log: ConnectionLog,
    ) -> None:
        """`read` and `write` are the numbers of DMA_READ and DMA_WRITE; `flush` says: we queued."""
        self._stream = stream
        self._main = stream  # its commands may unmap what is under way
        self._read, self._write = read, write
        self._layout = layout
        self._probe_id: int | None = None
        self._flush = flush
        self._log = log
        self._transfers: list[_Transfer] = []
        self._pieces: dict[int, _Piece | _Forgotten] = {}
        self._under_way = 0
        self._last_id = 0
        self._closed = False
        self.max_transfer = 1048576
        """Largest piece in bytes."""

    def move(self, stream: Stream, flush: Callable[[], None]) -> None:
        """From now on messages go over another stream, the twin socket's. Before the first message."""
        self._stream, self._flush = stream, flush

    async def read(self, iova: int, length: int) -> bytes:
        """Asks the client for bytes. DmaError: EIO, EFAULT, ENODEV, EDEADLK."""
        transfer = self._begin(iova, length, None)
        await self._finish(transfer)
        return bytes(transfer.buffer)

    async def write(self, iova: int, data: memoryview) -> None:
        """Hands the client bytes; returns when it has stored them. Errors as `read`."""
        await self._finish(self._begin(iova, len(data), data))

    def resume(self) -> None:
        """The held command is answered: what waited for that is sent."""
        self._send_pieces()

    def forget(self, iova: int, size: int) -> None:
        """A range is not the device's any more: what touches it fails, and late data is dropped."""
        for transfer in self._transfers:
            if transfer.iova < iova + size and iova < transfer.iova + transfer.length:
                transfer.fail(DmaError(errno.EFAULT, f"{transfer.iova:#x}+{transfer.length:#x} was unmapped meanwhile"))

    def close(self) -> None:
        """The client is gone. Idempotent."""
        self._closed = True
        for transfer in self._transfers:
            transfer.fail(DmaError(errno.ENODEV, "the client went away"))

    def take_reply(self, number: int, message_id: int, error: int, payload: bytes) -> None:
        """A reply to a message of ours (errno 0: success)."""
        if message_id == self._probe_id:
            self._probe_id = None
            self._answered_probe(error, payload)
            return
        piece = self._pieces.pop(message_id, None)
        if piece is None:
            text = "a reply to message %d of command %d, which we never sent: dropped"
            self._log.provoked(logging.WARNING, text, message_id, number)
            return
        self._under_way -= piece.count
        if isinstance(piece, _Piece) and not piece.transfer.done.done():
            self._settle(piece, number, error, payload)
        self._send_pieces()

    def misplaced(self, number: int, message_id: int) -> None:
        """A reply came over the main socket although there is a twin socket: its transfer fails with EIO."""
        text = f"the reply to command {number} came on the main socket, must come on the twin socket"
        self._log.warning("message %d: %s", message_id, text)
        piece = self._pieces.pop(message_id, None)
        if piece is not None:
            self._under_way -= piece.count
            if isinstance(piece, _Piece):
                piece.transfer.fail(DmaError(errno.EIO, text))
            self._send_pieces()

    def carry(self) -> dict[str, Any]:
        """What another process must know of messages that are under way, and of ids."""
        pieces = [[number, piece.count] for number, piece in self._pieces.items()]
        return {"last": self._last_id, "probe": self._probe_id, "pieces": pieces, "most": self.max_transfer}

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Goes on after carry(): replies that are still to come are taken in and dropped, for who waited for them
        begins anew."""
        self._last_id, self._probe_id, self.max_transfer = carried["last"], carried["probe"], carried["most"]
        self._pieces = {number: _Forgotten(count) for number, count in carried["pieces"]}
        self._under_way = sum(piece.count for piece in self._pieces.values())

    def go_on_behind(self, message_id: int) -> None:
        """The process before this one was killed after it had sent a message of this id: replies to what it sent must
        not be taken for others."""
        self._last_id = message_id

    def dump(self) -> dict[str, int]:
        """What is under way, as numbers."""
        return {"transfers": len(self._transfers), "messages": len(self._pieces), "bytes": self._under_way}

    # -- inside

    def _begin(self, iova: int, length: int, data: memoryview | None) -> _Transfer:
        if ANSWERING.get():
            raise DmaError(
                errno.EDEADLK,
                f"DMA by messages at {iova:#x} while a command waits for this code: answer first, go on in a job",
            )
        if self._closed:
            raise DmaError(errno.ENODEV, f"DMA at {iova:#x}: the client went away")
        return _Transfer(iova, length, data, asyncio.get_running_loop().create_future())

    async def _finish(self, transfer: _Transfer) -> None:
        if transfer.length == 0:
            return
        self._transfers.append(transfer)
        self._main.dma_transfers = len(self._transfers)
        try:
            self._send_pieces()
            await transfer.done
        finally:
            self._transfers.remove(transfer)
            self._main.dma_transfers = len(self._transfers)
            transfer.done.cancel()  # a cancelled caller: replies still to come find nobody

    def _send_pieces(self) -> None:
        if self._layout.current is None:
            self._probe()
            return
        queued = False
        for transfer in list(self._transfers):
            while not self._closed and not self._stream.held and self._room() and self._send_one(transfer):
                queued = True
        if queued:
            self._flush()

    def _probe(self) -> None:
        """Asks once which layout the client has, if anybody waits to send."""
        waiting = [transfer for transfer in self._transfers if not transfer.done.done()]
        if not waiting or self._probe_id is not None or self._closed or self._stream.held:
            return
        self._probe_id = self._free_id()
        self._stream.send(command_message(self._write, self._probe_id, self._layout.probe(waiting[0].iova)))
        self._flush()

    def _answered_probe(self, error: int, payload: bytes) -> None:
        """What could not be found out fails what waited for it; the next transfer asks again."""
        text = self._layout.settle(error, payload)
        self._log.info("message DMA: %s", text)
        if error:
            for transfer in self._transfers:
                transfer.fail(DmaError(errno.EIO, f"{text} (--quirk message-dma=spec asks nothing)"))
        self._send_pieces()

    def _room(self) -> bool:
        return len(self._pieces) < PIECES and (self._under_way < BYTES or not self._pieces)

    def _send_one(self, transfer: _Transfer) -> bool:
        """Sends the transfer's next piece, if there is one and anybody still waits for it."""
        count = min(self.max_transfer, transfer.length - transfer.sent)
        if count == 0 or transfer.done.done():
            return False
        layout, at, data = self._layout.current, transfer.sent, transfer.data
        if layout is None:
            return False
        payload = layout.request(transfer.iova + at, count, None if data is None else data[at : at + count])
        number, message_id = self._number(transfer), self._free_id()
        self._pieces[message_id] = _Piece(transfer, at, count, layout)
        self._under_way += count
        transfer.sent += count
        self._stream.send(command_message(number, message_id, payload))
        return True

    def _free_id(self) -> int:
        while True:  # at most PIECES + 1 ids are taken
            self._last_id = (self._last_id + 1) % MAX_ID
            if self._last_id not in self._pieces and self._last_id != self._probe_id:
                return self._last_id

    def _number(self, transfer: _Transfer) -> int:
        return self._read if transfer.data is None else self._write

    def _settle(self, piece: _Piece, number: int, error: int, payload: bytes) -> None:
        transfer, where = piece.transfer, f"{piece.transfer.iova + piece.at:#x}+{piece.count:#x}"
        if error:
            name = errno.errorcode.get(error, str(error))
            transfer.fail(DmaError(errno.EIO, f"the client answered {name} ({os.strerror(error)}) for {where}"))
            return
        data = None if number != self._number(transfer) else self._taken(piece, payload)
        if data is None:
            self._layout.doubt()
            text = f"command {number}, {len(payload)} bytes that start with {payload[:16].hex()}"
            transfer.fail(
                DmaError(errno.EIO, f"the client's reply to the DMA message for {where} does not fit: {text}")
            )
            return
        transfer.buffer[piece.at : piece.at + len(data)] = data
        transfer.settle(piece.count)

    @staticmethod
    def _taken(piece: _Piece, payload: bytes) -> bytes | None:
        """The data of a reply (none for a write); None if it does not say that all of the piece was moved."""
        address = piece.transfer.iova + piece.at
        if piece.transfer.data is None:
            return piece.layout.read_reply(payload, address, piece.count)
        return b"" if piece.layout.is_write_reply(payload, address, piece.count) else None
