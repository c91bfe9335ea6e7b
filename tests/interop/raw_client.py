"""Somebody else's vfio-user client: a blocking socket and the tables of the specification, nothing else."""

import os
import select
import socket
import struct
from array import array
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS, GET_IRQ_INFO, SET_IRQS = range(1, 9)
REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
REGION_WRITE_MULTI, DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE = range(15, 19)

TYPE, REPLY, NO_REPLY, ERROR = 0xF, 1, 0x10, 0x20
BAR0, BAR1, BAR2, BAR3, BAR4, BAR5, ROM, CONFIG, VGA = range(9)
INTX, MSI, MSIX, ERR, REQ = range(5)
DATA_NONE, DATA_BOOL, DATA_EVENTFD, MASK, UNMASK, TRIGGER = (1 << bit for bit in range(6))
READABLE, WRITEABLE = 1, 2

HEADER = struct.Struct("=HHIII")
REGION_INFO = struct.Struct("=IIIIQQ")
ACCESS = struct.Struct("=QII")
DMA_ACCESS = struct.Struct("=QQ")

QEMU = (
    b'{"capabilities": {"migration": {"pgsize": 4096, "max_bitmap_size": 268435456}, "max_msg_fds": 16, '
    b'"max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}\0'
)


class Message(NamedTuple):
    """One message as it came off the wire."""

    ident: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: list[int]


class RegionInfo(NamedTuple):
    """A GET_REGION_INFO reply."""

    argsz: int
    flags: int
    region: int
    cap_offset: int
    size: int
    offset: int
    caps: bytes
    fds: list[int]


class RefusedError(Exception):
    """The server answered with an error reply; errno is its Error field."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class Client:
    """One connection. Guest memory that is reached by messages lies in `memory`, keyed by its IOVA."""

    def __init__(self, path: str, proposal: bytes | None = QEMU, timeout: float = 8.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.memory: dict[int, bytearray] = {}
        self.served: list[tuple[int, int, int]] = []  # command, address, count of each DMA message
        self.dma_error = 0
        self._ident = 0
        self._loose: list[int] = []
        try:
            self.socket.connect(path)
            if proposal is not None:
                self.version(proposal)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and drop the descriptors that nobody has taken."""
        self.socket.close()
        while self._loose:
            os.close(self._loose.pop())

    # Messages

    def message(self, command: int, payload: bytes = b"", flags: int = 0, size: int | None = None) -> bytes:
        """Bytes of a command with the next message ID; `size` is for a size field that lies."""
        self._ident = self._ident % 0xFFFF + 1
        size = HEADER.size + len(payload) if size is None else size
        return HEADER.pack(self._ident, command, size, flags, 0) + payload

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> int:
        """Send a command and return its message ID."""
        self.raw(self.message(command, payload, flags), fds)
        return self._ident

    def receive(self) -> Message:
        """Next message, whatever it is; descriptors are those that came with its first byte."""
        head, fds = self._exactly(HEADER.size)
        ident, command, size, flags, error = HEADER.unpack(head)
        assert HEADER.size <= size <= 1 << 27, f"message size {size}"
        payload, late = self._exactly(size - HEADER.size)
        assert not late, "descriptors in the middle of a message"
        return Message(ident, command, flags, error, payload, fds)

    def _exactly(self, count: int) -> tuple[bytes, list[int]]:
        data, fds = bytearray(), array("i")
        while len(data) < count:
            piece, ancillary, flags, _ = self.socket.recvmsg(count - len(data), socket.CMSG_SPACE(4 * 16))
            for _level, _type, body in ancillary:
                fds.frombytes(body)
            self._loose += [fd for fd in fds if fd not in self._loose]
            assert not flags & socket.MSG_CTRUNC
            if not piece:
                raise ConnectionError("the server has closed the connection")
            data += piece
        return bytes(data), list(fds)

    def take(self, fd: int) -> int:
        """Become the owner of a received descriptor."""
        self._loose.remove(fd)
        return fd

    def reply(self, ident: int) -> Message:
        """Answer DMA messages until the reply with this ID comes; it must be the next reply."""
        while (message := self.receive()).flags & TYPE != REPLY:
            self.answer(message)
        assert message.ident == ident, f"reply {message.ident} out of order"
        if message.flags & ERROR:
            assert not message.payload, "an error reply is a header only"
            raise RefusedError(message.error)
        assert message.flags == REPLY
        assert message.error == 0
        return message

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Message:
        """Send a command and wait for its reply."""
        message = self.reply(self.send(command, payload, fds))
        assert message.command == command
        return message

    def answer(self, message: Message) -> None:
        """Answer the server's DMA_READ or DMA_WRITE."""
        assert message.flags == 0
        assert message.command in (DMA_READ, DMA_WRITE)
        address, count = DMA_ACCESS.unpack_from(message.payload)
        if not count:  # which layout do we have? (S0.14)
            self.raw(HEADER.pack(message.ident, message.command, 32, REPLY, 0) + DMA_ACCESS.pack(address, count))
            return
        self.served.append((message.command, address, count))
        found = [base for base, memory in self.memory.items() if base <= address <= base + len(memory) - count]
        if self.dma_error or not found:
            self.raw(HEADER.pack(message.ident, message.command, 16, REPLY | ERROR, self.dma_error or 14))
            return
        memory, start = self.memory[found[0]], address - found[0]
        body = DMA_ACCESS.pack(address, count)
        if message.command == DMA_READ:
            assert len(message.payload) == DMA_ACCESS.size
            body += memory[start : start + count]
        else:
            assert len(message.payload) == DMA_ACCESS.size + count
            memory[start : start + count] = message.payload[DMA_ACCESS.size :]
        self.raw(HEADER.pack(message.ident, message.command, 16 + len(body), REPLY, 0) + body)

    def receive_dma(self) -> Message:
        """Next message, which must be a DMA message that moves bytes; the question before it is answered."""
        while (message := self.receive()).command == DMA_WRITE and not DMA_ACCESS.unpack_from(message.payload)[1]:
            self.answer(message)
        assert message.command in (DMA_READ, DMA_WRITE)
        return message

    def closed(self) -> bool:
        """Read what there is until the server closes; False if it does not within the timeout."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def quiet(self) -> bool:
        """Nothing has arrived."""
        return not select.select([self.socket], [], [], 0)[0]

    # Commands

    def version(self, proposal: bytes, major: int = 0, minor: int = 0) -> bytes:
        """Propose; the reply's version data."""
        reply = self.request(VERSION, struct.pack("=HH", major, minor) + proposal)
        assert reply.payload[:4] == bytes(4), "the version is 0.0"
        return reply.payload[4:]

    def info(self, argsz: int = 16) -> tuple[int, ...]:
        """Device info: argsz, flags, regions, interrupts."""
        return struct.unpack("=4I", self.request(GET_INFO, struct.pack("=4I", argsz, 0, 0, 0)).payload)

    def region_info(self, index: int, argsz: int = 32) -> RegionInfo:
        """Region info as asked for with argsz."""
        message = self.request(GET_REGION_INFO, REGION_INFO.pack(argsz, 0, index, 0, 0, 0))
        assert len(message.payload) <= max(argsz, 32)
        argsz, flags, region, cap_offset, size, offset = REGION_INFO.unpack_from(message.payload)
        return RegionInfo(argsz, flags, region, cap_offset, size, offset, message.payload[32:], message.fds)

    def irq_info(self, index: int) -> tuple[int, ...]:
        """Interrupt info: argsz, flags, index, count."""
        return struct.unpack("=4I", self.request(GET_IRQ_INFO, struct.pack("=4I", 16, 0, index, 0)).payload)

    def set_irqs(
        self, flags: int, index: int, start: int = 0, count: int = 0, fds: Sequence[int] = (), data: bytes = b""
    ) -> None:
        """Act on interrupts."""
        self.request(SET_IRQS, struct.pack("=5I", 20 + len(data), flags, index, start, count) + data, fds)

    def arm(self, index: int, fds: Sequence[int], start: int = 0) -> None:
        """Assign eventfds, or, with none, de-assign everything from start on that is one vector."""
        self.set_irqs(DATA_EVENTFD | TRIGGER, index, start, len(fds) or 1, fds)

    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        """Read of any length."""
        payload = self.request(REGION_READ, ACCESS.pack(offset, region, count)).payload
        assert ACCESS.unpack_from(payload) == (offset, region, count)
        assert len(payload) == ACCESS.size + count
        return payload[ACCESS.size :]

    def read(self, region: int, offset: int, width: int = 4) -> int:
        """Read a little endian number."""
        return int.from_bytes(self.read_bytes(region, offset, width), "little")

    def write_bytes(self, region: int, offset: int, data: bytes | bytearray) -> None:
        """Write of any length."""
        reply = self.request(REGION_WRITE, ACCESS.pack(offset, region, len(data)) + data)
        assert ACCESS.unpack(reply.payload) == (offset, region, len(data))

    def write(self, region: int, offset: int, value: int, width: int = 4) -> None:
        """Write a little endian number."""
        self.write_bytes(region, offset, value.to_bytes(width, "little"))

    def post(self, region: int, offset: int, value: int, width: int = 4) -> None:
        """Write with No_reply."""
        data = value.to_bytes(width, "little")
        self.send(REGION_WRITE, ACCESS.pack(offset, region, width) + data, flags=NO_REPLY)

    def dma_map(
        self, address: int, size: int, fd: int | None = None, flags: int = READABLE | WRITEABLE, offset: int = 0
    ) -> None:
        """Offer memory, with a descriptor or without."""
        fds = () if fd is None else (fd,)
        assert not self.request(DMA_MAP, struct.pack("=IIQQQ", 32, flags, offset, address, size), fds).payload

    def dma_unmap(self, address: int, size: int, flags: int = 0, argsz: int = 24) -> bytes:
        """Take memory back; the reply repeats the entry."""
        return self.request(DMA_UNMAP, struct.pack("=IIQQ", argsz, flags, address, size)).payload

    def reset(self) -> None:
        """Reset the device."""
        assert not self.request(RESET).payload
