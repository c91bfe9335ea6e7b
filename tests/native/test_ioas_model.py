"""Any sequence of calls gives what a naive model gives (S1.5, S1.10, S3.18, S3.19, S3.21, S4.3-S4.6, S4.8)."""

import errno
import os
from collections.abc import Callable
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.iommu.core import set_bits
from tests.native.ioas_model import END, PAGE, READ, WRITE, Area, Space
from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

FILE_PAGES = 24
NEAR = 20
"""Pages around a base in which areas lie, close enough that they meet."""
BASES = (0, 1 << 32, (1 << 40) - NEAR // 2 * PAGE, END - NEAR * PAGE)

bases = st.sampled_from(BASES)
pages = st.integers(0, NEAR - 1)
few = st.sampled_from([0, 1, 1, 1, 2, 3, 7, NEAR])
prots = st.sampled_from([0, READ, WRITE, READ | WRITE, READ | WRITE, READ | WRITE])
spaces = st.integers(0, 1)
iovas = st.builds(lambda base, page: base + page * PAGE, bases, pages)
bytes_in = st.integers(0, PAGE - 1) | st.sampled_from([0, PAGE - 1])
lengths = st.sampled_from([0, 1, 8, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
spans = st.lists(
    st.builds(lambda iova, count: (iova, min(iova + count * PAGE, END) - 1), iovas, st.sampled_from([1, 2, 8, NEAR])),
    max_size=3,
)
wide = st.lists(
    st.builds(lambda base, before, after: (max(base - before * PAGE, 0), min(base + after * PAGE, END) - 1), bases,
              st.integers(0, 3), st.integers(NEAR - 8, NEAR + 8)),
    max_size=4,
)  # fmt: skip


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, None as 0; or -errno."""
    try:
        result = call(*arguments)
    except (CommandError, DmaError) as error:
        return -error.errno
    return 0 if result is None else result


class Machine(RuleBasedStateMachine):
    """Two spaces over one file."""

    max_areas: ClassVar[int] = 12

    def __init__(self) -> None:
        super().__init__()
        self.fd = os.memfd_create("model")
        os.ftruncate(self.fd, FILE_PAGES * PAGE)
        self.memory = bytearray(FILE_PAGES * PAGE)
        self.real = [_core.Ioas(max_areas=self.max_areas) for _ in range(2)]
        self.model = [Space(self.memory, self.max_areas) for _ in range(2)]
        self.stores = 0

    def teardown(self) -> None:
        for ioas in self.real:
            ioas.clear()
        os.close(self.fd)

    def fresh(self, length: int) -> bytes:
        """Bytes that tell this store from others."""
        self.stores += 1
        return (self.stores.to_bytes(4, "little") * (length // 4 + 1))[:length]

    # -- areas

    @rule(space=spaces, iova=iovas, count=few, prot=prots, offset=st.none() | st.integers(0, FILE_PAGES))
    def map(self, space: int, iova: int, count: int, prot: int, offset: int | None) -> None:
        area = Area(iova, count * PAGE, prot, None if offset is None else offset * PAGE)
        fd, at = (-1, 0) if area.offset is None else (self.fd, area.offset)
        assert outcome(self.real[space].map, iova, area.size, prot, fd, at) == self.model[space].map(area)

    @rule(space=spaces, iova=iovas, count=few)
    def unmap(self, space: int, iova: int, count: int) -> None:
        assert outcome(self.real[space].unmap, iova, count * PAGE) == self.model[space].unmap(iova, count * PAGE)

    @rule(space=spaces, first=bases, last=bases)
    def unmap_much(self, space: int, first: int, last: int) -> None:
        size = min(last + NEAR * PAGE - first, END - 1) if last >= first else 0
        assert outcome(self.real[space].unmap, first, size) == self.model[space].unmap(first, size)

    @precondition(lambda self: any(space.areas for space in self.model))
    @rule(data=st.data(), other=spaces, to=iovas, prot=prots, more=st.integers(0, 3), cut=st.sampled_from([0, 0, 1]))
    def share(self, data: st.DataObject, other: int, to: int, prot: int, more: int, cut: int) -> None:
        space = data.draw(st.sampled_from([at for at in range(2) if self.model[at].areas]))
        area = data.draw(st.sampled_from(self.model[space].areas))
        size = area.size - cut * PAGE
        for one in self.model[space].areas:
            size += one.size if more and one.iova == area.iova + size else 0
        expected = self.model[space].share(area.iova, size, self.model[other], to, prot)
        assert outcome(self.real[space].share, area.iova, size, self.real[other], to, prot) == expected

    # -- addresses

    @rule(space=spaces, spans=wide)
    def allow(self, space: int, spans: list[tuple[int, int]]) -> None:
        assert outcome(self.real[space].allow, spans) == self.model[space].allow(spans)

    @rule(space=spaces, spans=spans)
    def reserve(self, space: int, spans: list[tuple[int, int]]) -> None:
        assert outcome(self.real[space].reserve, spans) == self.model[space].reserve(spans)

    @rule(
        space=spaces,
        count=st.integers(1, 9) | st.sampled_from([1 << 20, 1 << 50, (1 << 52) - 1]),
        shift=st.integers(12, 63),
    )
    def hole(self, space: int, count: int, shift: int) -> None:
        assert outcome(self.real[space].hole, count * PAGE, 1 << shift) == self.model[space].hole(
            count * PAGE, 1 << shift
        )

    # -- accesses

    @rule(space=spaces, iova=iovas, into=bytes_in, length=lengths)
    def read(self, space: int, iova: int, into: int, length: int) -> None:
        places = self.model[space].places(iova + into, length, READ)
        expected = (
            places if isinstance(places, int) else 0 if places is None else bytes(map(self.memory.__getitem__, places))
        )
        assert outcome(self.real[space].read, iova + into, length) == expected

    @rule(space=spaces, iova=iovas, into=bytes_in, length=lengths)
    def write(self, space: int, iova: int, into: int, length: int) -> None:
        data, places = self.fresh(length), self.model[space].places(iova + into, length, WRITE)
        expected = places if isinstance(places, int) else places is not None
        assert outcome(self.real[space].write, iova + into, data) == expected
        if isinstance(places, list):
            for place, byte in zip(places, data, strict=True):
                self.memory[place] = byte
            self.model[space].mark(iova + into, length)

    @rule(space=spaces, source=iovas, to=iovas, length=st.sampled_from([1, 8, 100, PAGE]))
    def copy(self, space: int, source: int, to: int, length: int) -> None:
        model = self.model[space]
        reads, writes = model.places(source, length, READ), model.places(to, length, WRITE)
        if isinstance(reads, list) and isinstance(writes, list) and set(reads) & set(writes):
            return  # the order of bytes that overlap is not promised
        refused = reads if not isinstance(reads, list) else writes
        expected = refused if isinstance(refused, int) else refused is not None
        assert outcome(self.real[space].copy, source, to, length) == expected
        if isinstance(reads, list) and isinstance(writes, list):
            for place, byte in zip(writes, [self.memory[at] for at in reads], strict=True):
                self.memory[place] = byte
            model.mark(to, length)

    @rule(space=spaces, iova=iovas, word=st.integers(0, 511), value=st.integers(0, 2**64 - 1))
    def add(self, space: int, iova: int, word: int, value: int) -> None:
        at = iova + 8 * word
        places = self.model[space].places(at, 8, READ | WRITE)
        if not isinstance(places, list):
            assert outcome(self.real[space].atomic, _core.ADD, at, 8, value) == (places or -errno.EFAULT)
            return
        here = slice(places[0], places[0] + 8)
        old = int.from_bytes(self.memory[here], "little")
        assert outcome(self.real[space].atomic, _core.ADD, at, 8, value) == old
        self.memory[here] = ((old + value) % 2**64).to_bytes(8, "little")
        self.model[space].mark(at, 8)

    @rule(space=spaces, iova=iovas, into=bytes_in, length=lengths, prot=st.sampled_from([READ, WRITE, READ | WRITE]))
    def plan(self, space: int, iova: int, into: int, length: int, prot: int) -> None:
        expected = self.model[space].pieces(iova + into, length, prot)
        if not isinstance(expected, int):
            expected = [(at, size, 0 if area.offset is None else 1) for area, at, size in expected]  # type: ignore[misc]
        plan = outcome(self.real[space].plan, iova + into, length, prot)
        assert (plan if isinstance(plan, int) else [piece[:3] for piece in plan]) == expected

    @rule(space=spaces, iova=iovas, count=st.integers(1, 3), write=st.booleans())
    def view(self, space: int, iova: int, count: int, write: bool) -> None:
        """A view that is made, used and dropped: a writable one has written all of it."""
        prot, length, model = READ | WRITE * write, count * PAGE, self.model[space]
        places = model.places(iova, length, prot)
        if not isinstance(places, list):
            refused = -errno.EINVAL if iova + length > END else places or -errno.EFAULT
            assert outcome(_core.Pin, self.real[space], iova, length, prot) == refused
            return
        pin = _core.Pin(self.real[space], iova, length, prot)
        assert bytes(pin) == bytes(map(self.memory.__getitem__, places))
        if write:
            memoryview(pin)[5:9] = data = self.fresh(4)
            for place, byte in zip(places[5:9], data, strict=True):
                self.memory[place] = byte
            model.mark(iova, length)

    # -- the log

    @rule(space=spaces, spans=spans)
    def log(self, space: int, spans: list[tuple[int, int]]) -> None:
        assert outcome(self.real[space].log, spans) == self.model[space].log(spans)

    @rule(space=spaces)
    def log_stop(self, space: int) -> None:
        assert outcome(self.real[space].log_stop) == self.model[space].log_stop()

    @rule(
        space=spaces,
        iova=iovas,
        into=st.sampled_from([0, 0, 0, 0x800]),
        shift=st.integers(12, 30),
        count=st.integers(0, 130),
    )
    def report(self, space: int, iova: int, into: int, shift: int, count: int) -> None:
        result = outcome(self.real[space].report, iova + into, count, shift)
        assert isinstance(result, int) or len(result) == (count + 63) // 64 * 8
        expected = self.model[space].report(iova + into, count, shift)
        assert (result if isinstance(result, int) else set_bits(result)) == expected

    @rule(space=spaces, shift=st.integers(40, 63))
    def report_of_everything(self, space: int, shift: int) -> None:
        result = outcome(self.real[space].report, 0, 1 << (64 - shift), shift)
        assert (result if isinstance(result, int) else set_bits(result)) == self.model[space].report(
            0, 1 << (64 - shift), shift
        )

    # -- from process to process

    @rule(space=spaces)
    def carry(self, space: int) -> None:
        """Another space goes on with its areas and its log; what is unreported is told as long as writes are logged."""
        old, model = self.real[space], self.model[space]
        new = self.real[space] = _core.Ioas(max_areas=self.max_areas)
        new.allow(model.allowed)
        new.reserve(model.reserved)
        new.adopt(*old.carry())
        log = old.carry_log()
        assert old.carry_log() == log
        if log:
            new.adopt_log(*log)
        else:
            model.unreported = 0
        old.clear()

    # -- always

    @invariant()
    def same_areas(self) -> None:
        for real, model in zip(self.real, self.model, strict=True):
            areas = [(a[0], a[1], a[2], a[5] if a[3] else None) for a in real.areas()]
            assert areas == [(a.iova, a.size, a.prot, a.offset) for a in model.areas]
            assert (real.count, real.mapped) == (len(areas), sum(area[1] for area in areas))
            assert (real.logging, real.unreported, real.pins) == (model.logged is not None, model.unreported, 0)

    @invariant()
    def same_bytes(self) -> None:
        assert os.pread(self.fd, FILE_PAGES * PAGE, 0) == self.memory


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestSequences = Machine.TestCase
