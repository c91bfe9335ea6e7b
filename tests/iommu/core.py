"""The C core as a backend of the table of cases."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from tests.iommu.backend import PAGE, RAM, Span
from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

PROT: Final = {"": 0, "r": _core.PROT_READ, "w": _core.PROT_WRITE, "rw": _core.PROT_READ | _core.PROT_WRITE}


def set_bits(bitmap: bytes | bytearray) -> list[int]:
    """The numbers of the bits that are set in little-endian words."""
    value = int.from_bytes(bitmap, "little")
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


@contextmanager
def errno_only() -> Iterator[None]:
    try:
        yield
    except (CommandError, DmaError) as error:
        raise OSError(error.errno, str(error)) from error


class Core:
    """Two `_core.Ioas` over one memfd."""

    lacks: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._spaces = {"a": _core.Ioas(), "b": _core.Ioas()}
        ram = os.memfd_create("cases-ram")
        os.ftruncate(ram, RAM * PAGE)
        self._files = {"": -1, "ram": ram, "rom": os.open(f"/proc/self/fd/{ram}", os.O_RDONLY)}

    def close(self) -> None:
        for ioas in self._spaces.values():
            ioas.clear()
        for fd in self._files.values():
            if fd >= 0:
                os.close(fd)

    def map(
        self, page: int, pages: int, access: str = "rw", file: str = "ram", offset: int = 0, space: str = "a"
    ) -> None:
        with errno_only():
            self._spaces[space].map(page * PAGE, pages * PAGE, PROT[access], self._files[file], offset * PAGE)

    def map_anywhere(self, pages: int, alignment: int = 1, space: str = "a") -> int:
        with errno_only():
            page = self._spaces[space].hole(pages * PAGE, alignment * PAGE) // PAGE
        self.map(page, pages, space=space)
        return page

    def unmap(self, page: int, pages: int, space: str = "a") -> int:
        ioas = self._spaces[space]
        before = ioas.mapped
        with errno_only():
            ioas.unmap(page * PAGE, pages * PAGE)
        return (before - ioas.mapped) // PAGE

    def unmap_all(self, space: str = "a") -> int:
        ioas = self._spaces[space]
        before = ioas.mapped
        ioas.clear()
        return (before - ioas.mapped) // PAGE

    def share(self, page: int, pages: int, to: int, access: str = "rw", source: str = "a", target: str = "b") -> None:
        with errno_only():
            self._spaces[source].share(page * PAGE, pages * PAGE, self._spaces[target], to * PAGE, PROT[access])

    def allow(self, spans: Iterable[Span], space: str = "a") -> None:
        with errno_only():
            self._spaces[space].allow(spans)

    def reserve(self, spans: Iterable[Span], space: str = "a") -> None:
        with errno_only():
            self._spaces[space].reserve(spans)

    def store(self, page: int, data: bytes, at: int = 0, space: str = "a") -> None:
        with errno_only():
            assert self._spaces[space].write(page * PAGE + at, data)

    def load(self, page: int, count: int, at: int = 0, space: str = "a") -> bytes:
        with errno_only():
            data = self._spaces[space].read(page * PAGE + at, count)
        assert data is not None
        return data

    def log(self, spans: Iterable[Span] = ()) -> None:
        with errno_only():
            self._spaces["a"].log(spans)

    def log_stop(self) -> None:
        with errno_only():
            self._spaces["a"].log_stop()

    def report(self, page: int, pages: int, scale: int = 1) -> list[int]:
        with errno_only():
            return set_bits(self._spaces["a"].report(page * PAGE, pages, (scale * PAGE).bit_length() - 1))
