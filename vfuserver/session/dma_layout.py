"""Where the fields of DMA_READ and DMA_WRITE lie: in the specification's layout, or in that of the first QEMU (S0.14).

QEMU 10.1 declared a 32-bit count, so that its data begin at message byte 28, while its arithmetic of sizes used 32:
every message is as long as the specification's and ends with four bytes that mean nothing. Its reply to a DMA_WRITE is
a bare header. The specification has a 64-bit count and data at 32; the reply to a DMA_WRITE repeats address and count,
the count with 32 bits in its table and 64 in QEMU since 11.1.

A DMA_WRITE of no bytes is the same in both layouts, moves nothing, and its reply tells them apart. It must not know
connections or transfers.
"""

import errno
import os
from dataclasses import dataclass
from typing import Any, Final

from vfuserver.wire import U32, U64, Layout

OLD_HEAD: Final = Layout("address" / U64, "count" / U32)
SPEC_NAME, OLD_NAME = "the layout of the specification", "the layout of QEMU 10.1"
BARE, SHORT, FULL = 0, 12, 16
"""Sizes of a DMA_WRITE reply's payload: a bare header, the specification's table, QEMU 11.1."""


@dataclass(frozen=True, slots=True)
class DmaLayout:
    """What requests and replies begin with, how many bytes follow the data, and which DMA_WRITE replies are right."""

    head: Layout
    padding: int
    write_replies: tuple[int, ...]

    def request(self, address: int, count: int, data: memoryview | None = None) -> bytes:
        """The payload of a DMA_READ, or of a DMA_WRITE of `data`."""
        return b"".join((self.head.pack(address, count), data or b"", bytes(self.padding)))

    def read_reply(self, payload: bytes, address: int, count: int) -> bytes | None:
        """The data of a DMA_READ reply; None if it does not fit the request."""
        if len(payload) != self.head.size + count + self.padding:
            return None
        return payload[self.head.size :][:count] if payload.startswith(self.head.pack(address, count)) else None

    def is_write_reply(self, payload: bytes, address: int, count: int) -> bool:
        """Whether it says that all of a DMA_WRITE was stored."""
        said = self.head.pack(address, count) + bytes(self.padding)
        return len(payload) in self.write_replies and said.startswith(payload)


OLD: Final = DmaLayout(OLD_HEAD, 4, (BARE,))


class LayoutChoice:
    """The layout of one connection: configured, or `current` is None until the client's was found out."""

    def __init__(self, head: Layout, quirk: str) -> None:
        """`head` is address and count as the specification has them; `quirk` a value of message-dma."""
        self._found = DmaLayout(head, 0, (SHORT, FULL))
        self._specified = DmaLayout(head, 0, (BARE, SHORT, FULL))
        self._auto = quirk == "auto"
        self.current: DmaLayout | None = {"old": OLD, "spec": self._specified}.get(quirk)

    @property
    def name(self) -> str:
        """What is known, for people."""
        if self.current is None:
            return "not known"
        return OLD_NAME if self.current is OLD else SPEC_NAME

    def carry(self) -> list[Any]:
        """What is known, for another process."""
        known = {None: "", OLD: "old", self._found: "found", self._specified: "specified"}
        return [known[self.current], self._auto]

    def adopt(self, carried: list[Any]) -> None:
        """Knows what carry() told."""
        name, self._auto = carried
        self.current = {"": None, "old": OLD, "found": self._found, "specified": self._specified}[name]

    def probe(self, address: int) -> bytes:
        """The payload of the DMA_WRITE that finds it out."""
        return self._found.request(address, 0)

    def settle_for_specification(self) -> None:
        """The client is none that ever had another layout: nothing has to be found out."""
        if self._auto:
            self._auto = False
            self.current = self._specified

    def settle(self, error: int, payload: bytes) -> str:
        """Takes the probe's reply; what it means, for the log. An error proves nothing: `current` stays None."""
        if error:
            name = errno.errorcode.get(error, os.strerror(error))
            return f"the client answers {name} to a write of no bytes, which does not tell its layout"
        self.current = self._found if payload else OLD
        return f"the client has {SPEC_NAME if payload else OLD_NAME}"

    def doubt(self) -> None:
        """A reply did not fit: what was found out is found out again."""
        if self._auto:
            self.current = None
