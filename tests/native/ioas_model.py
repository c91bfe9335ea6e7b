"""An address space as simply as it can be said: lists that are searched from end to end. What the core is held against.

It knows no files: memory is one bytearray that areas lie in, or messages. Errors are returned as negative errnos.
"""

import errno
from dataclasses import dataclass, field
from typing import Final

PAGE: Final = 4096
END: Final = 2**64
READ: Final = 1
WRITE: Final = 2

Span = tuple[int, int]


@dataclass(frozen=True)
class Area:
    iova: int
    size: int
    prot: int
    offset: int | None
    """In the memory; None: messages reach it."""

    @property
    def last(self) -> int:
        return self.iova + self.size - 1


@dataclass
class Space:
    """One address space over `memory`, which several may share."""

    memory: bytearray
    max_areas: int = 65535
    areas: list[Area] = field(default_factory=list)
    allowed: list[Span] = field(default_factory=list)
    reserved: list[Span] = field(default_factory=list)
    logged: list[Span] | None = None
    dirty: set[int] = field(default_factory=set)
    unreported: int = 0

    # -- areas

    def touched(self, iova: int, last: int) -> list[Area]:
        return [area for area in self.areas if area.iova <= last and area.last >= iova]

    def map(self, area: Area) -> int:
        if not area.size or area.last >= END or not area.prot:
            return -errno.EINVAL
        if any(first <= area.last and last >= area.iova for first, last in self.reserved):
            return -errno.EINVAL
        if self.allowed and not any(first <= area.iova and area.last <= last for first, last in self.allowed):
            return -errno.EINVAL
        if len(self.areas) >= self.max_areas:
            return -errno.ENOSPC
        if self.touched(area.iova, area.last):
            return -errno.EEXIST
        if area.offset is not None and area.offset + area.size > len(self.memory):
            return -errno.EINVAL
        self.areas = sorted([*self.areas, area], key=lambda one: one.iova)
        return 0

    def unmap(self, iova: int, size: int) -> int:
        last = iova + size - 1
        if not size or last >= END:
            return -errno.EINVAL
        touched = self.touched(iova, last)
        if not touched or any(area.iova < iova or area.last > last for area in touched):
            return -errno.ENOENT
        self.areas = [area for area in self.areas if area not in touched]
        gone = {page for page in self.dirty if iova // PAGE <= page <= last // PAGE}
        self.dirty -= gone
        self.unreported += len(gone)
        return len(touched)

    def share(self, iova: int, size: int, other: "Space", to: int, prot: int) -> int:
        if not size or iova + size > END or to + size > END or not prot:
            return -errno.EINVAL
        at, shared = iova, []
        while at < iova + size:
            area = next((one for one in self.areas if one.iova == at and one.last < iova + size), None)
            if area is None:
                return -errno.ENOENT
            if area.prot & prot != prot:
                return -errno.EPERM
            shared.append(area)
            at += area.size
        before = other.areas
        for area in shared:
            error = other.map(Area(area.iova - iova + to, area.size, prot, area.offset))
            if error:
                other.areas = before
                return error
        return 0

    # -- addresses

    @staticmethod
    def _wrong(spans: list[Span]) -> bool:
        pairs = zip(sorted(spans), sorted(spans)[1:], strict=False)
        return any(first >= last for first, last in spans) or any(one[1] >= two[0] for one, two in pairs)

    @staticmethod
    def _cross(spans: list[Span], others: list[Span]) -> bool:
        return any(a[0] <= b[1] and b[0] <= a[1] for a in spans for b in others)

    def allow(self, spans: list[Span]) -> int:
        if self._wrong(spans):
            return -errno.EINVAL
        outside = [a for a in self.areas if not any(f <= a.iova and a.last <= t for f, t in spans)]
        if (spans and outside) or self._cross(spans, self.reserved):
            return -errno.EADDRINUSE
        self.allowed = spans
        return 0

    def reserve(self, spans: list[Span]) -> int:
        if self._wrong(spans):
            return -errno.EINVAL
        if self._cross(spans, [(area.iova, area.last) for area in self.areas]) or self._cross(self.allowed, spans):
            return -errno.EADDRINUSE
        self.reserved = spans
        return 0

    def hole(self, size: int, alignment: int) -> int:
        """The lowest of the places that could be it: behind what is in the way, or where what is allowed starts."""
        spans = self.allowed or [(0, END - 1)]
        ends = [area.last + 1 for area in self.areas] + [last + 1 for _, last in self.reserved]
        starts = [first for first, _ in spans] + ends + [alignment]
        for at in sorted({-(-start // alignment) * alignment for start in starts}):
            inside = any(first <= at and at + size - 1 <= last for first, last in spans)
            free = not self.touched(at, at + size - 1) and not self._cross([(at, at + size - 1)], self.reserved)
            if at and inside and free:
                return at
        return -errno.ENOSPC

    # -- accesses

    def pieces(self, iova: int, length: int, prot: int) -> list[tuple[Area, int, int]] | int:
        """(area, IOVA, length) of every piece, or what refuses the first piece that is refused."""
        found, at = [], iova
        while at < iova + length:
            area = next(iter(self.touched(at, at)), None)
            if area is None or iova + length > END:
                return -errno.EFAULT
            if area.prot & prot != prot:
                return -errno.EPERM
            found.append((area, at, min(area.last + 1, iova + length) - at))
            at += found[-1][2]
        return found

    def places(self, iova: int, length: int, prot: int) -> list[int] | int | None:
        """Where each byte of an access lies in the memory; None: messages are needed before an error is met."""
        at, places = iova, list[int]()
        while at < iova + length:
            pieces = self.pieces(at, 1, prot) if iova + length <= END else -errno.EFAULT
            if isinstance(pieces, int):
                return pieces
            area = pieces[0][0]
            if area.offset is None:
                return None
            end = min(area.last + 1, iova + length)
            places += range(area.offset + at - area.iova, area.offset + end - area.iova)
            at = end
        return places

    def mark(self, iova: int, length: int) -> None:
        if self.logged is None or not length:
            return
        pages = range(iova // PAGE, (iova + length - 1) // PAGE + 1)
        spans = self.logged or [(0, END - 1)]
        self.dirty |= {page for page in pages if any(f // PAGE <= page <= t // PAGE for f, t in spans)}

    # -- the log

    def log(self, spans: list[Span]) -> int:
        if self._wrong(spans):
            return -errno.EINVAL
        if self.logged is not None:
            return -errno.EALREADY
        self.logged = spans
        return 0

    def log_stop(self) -> int:
        if self.logged is None:
            return -errno.ENOENT
        self.logged = None
        self.dirty = set()
        return 0

    def report(self, iova: int, pages: int, shift: int) -> list[int] | int:
        if iova % PAGE or iova + (pages << shift) > END:
            return -errno.EINVAL
        if self.logged is None:
            return -errno.ENOENT
        taken = {page for page in self.dirty if iova <= page * PAGE < iova + (pages << shift)}
        self.dirty -= taken
        return sorted({(page * PAGE - iova) >> shift for page in taken})
