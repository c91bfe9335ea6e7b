"""What an address space must be able to do to run the table of cases, whoever keeps it: the core, iommufd, type1.

Everything is counted in pages, and refused with an OSError that carries the errno of S4.2.
"""

from collections.abc import Iterable
from typing import Final, Protocol

PAGE: Final = 4096
RAM: Final = 64
"""Pages of the file "ram", which may be read and written. "rom" is the same file, opened for reading."""

TOP: Final = 2**64 // PAGE
"""Where the address space ends, in pages."""

Span = tuple[int, int]
"""(first byte, last byte)."""


def span(first: int, last: int) -> Span:
    """The bytes of pages first to last."""
    return first * PAGE, (last + 1) * PAGE - 1


class Backend(Protocol):
    """Two address spaces, "a" and "b", and DMA to them. `lacks` names the calls that are not to be had."""

    lacks: frozenset[str]

    def map(
        self, page: int, pages: int, access: str = "rw", file: str = "ram", offset: int = 0, space: str = "a"
    ) -> None:
        """A fixed map; file "" is memory that only messages reach."""

    def map_anywhere(self, pages: int, alignment: int = 1, space: str = "a") -> int:
        """A map at an address that the space chooses, and returns."""

    def unmap(self, page: int, pages: int, space: str = "a") -> int:
        """How many pages were removed."""

    def unmap_all(self, space: str = "a") -> int:
        """How many pages were removed."""

    def share(self, page: int, pages: int, to: int, access: str = "rw", source: str = "a", target: str = "b") -> None:
        """A copy of areas, S4.8."""

    def allow(self, spans: Iterable[Span], space: str = "a") -> None:
        """Replaces the addresses that may be used."""

    def reserve(self, spans: Iterable[Span], space: str = "a") -> None:
        """Replaces the addresses that must not be used."""

    def store(self, page: int, data: bytes, at: int = 0, space: str = "a") -> None:
        """DMA to memory, `at` bytes into a page."""

    def load(self, page: int, count: int, at: int = 0, space: str = "a") -> bytes:
        """DMA from memory."""

    def log(self, spans: Iterable[Span] = ()) -> None:
        """Starts dirty tracking of space "a"; no span: of everything."""

    def log_stop(self) -> None:
        """Ends it."""

    def report(self, page: int, pages: int, scale: int = 1) -> list[int]:
        """Takes the numbers of the bits that are set for `pages` pages of scale * PAGE bytes from `page` on."""

    def close(self) -> None:
        """Gives everything back."""
