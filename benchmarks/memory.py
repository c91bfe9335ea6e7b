"""The client's memory: copies, translation, file transfers and maps, beside what plain memory and plain calls cost.

What is compared runs in turns, in one process, on the same bytes. The C side (`memory.c`) is compiled with the core's
own sources, so it times the core without Python; the Python side times what a device's model calls.
"""

import ctypes
import mmap
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, over
from benchmarks.maps import Maps
from vfuserver._core import PROT_READ, PROT_WRITE, Ioas
from vfuserver.iommu import Access
from vfuserver.testing.local_client import NoMessages

CORE = Path(__file__).parent.parent / "native" / "core"
SOURCE = Path(__file__).with_name("memory.c")
PAGE, KIB, MIB = 4096, 1 << 10, 1 << 20
FEW, MANY = 16, 65535
SIZES = {64 * KIB: 200, MIB: 20, 16 * MIB: 2}
"""Bytes of a copy, and how many are timed at once."""
FILE = 64 * MIB
SMALL = 64
CALLS = 20000
UNORDERED = 40507
"""A stride that is prime to the number of areas: they come in no order."""

Round = dict[str, float]


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Everything, `rounds` times. CalledProcessError: the C side does not compile."""
    found: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as folder:
        library = compiled(Path(folder))
        with _Bench(library, Path(folder)) as bench, Maps(library) as maps:
            for _ in range(rounds):
                found.append({**bench.core(), **bench.python(), **maps.once()})
                progress(1)
    return over(_figures(one) for one in found)


def compiled(folder: Path) -> ctypes.CDLL:
    """The C side as a library."""
    library = folder / "memory.so"
    sources = [SOURCE, *sorted(CORE.glob("*.c"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-pthread", "-Wl,-Bsymbolic"]
    subprocess.run(["cc", *flags, "-o", library, *sources], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("copy", "translate", "whole_file", "heap_of"):
        getattr(loaded, name).restype = ctypes.c_double
    loaded.space_of.restype = ctypes.c_void_p
    return loaded


def _figures(found: Round) -> list[Figure]:
    figures = [
        Figure(f"copy {'into' if write else 'out of'} guest memory, {size // KIB} KiB, over memcpy",
               found[f"plain {size} {write}"] / found[f"space {size} {write}"], "times", least=0.9)
        for size in SIZES for write in (0, 1)
    ]  # fmt: skip
    few, many = found["few"], found["many"]
    python_few, python_many = found["python few"], found["python many"]
    api = found["python 4 KiB"] - found["space 4096 0"]
    maps, bare = found["map"], found["bare"]
    return [
        *figures,
        Figure(f"64 bytes at random addresses, {FEW} areas", few, "ns"),
        Figure(f"the same bytes, {MANY} areas: more by", many - few, "ns", most=60),
        Figure("64 bytes by the Python API, 16 areas", python_few, "ns"),
        Figure(f"the same bytes, {MANY} areas: times", python_many / python_few, "times", most=1.2),
        Figure("4 KiB by the Python API: more than the C call by", api, "ns", most=1000),
        Figure("preadv into guest memory, over plain", found["plain file"] / found["file"], "times", least=0.9),
        Figure(f"memory for {MANY} areas", found["heap"] / MIB, "MiB", most=16),
        Figure("CPU of recvmsg, fstat, close of a DMA_MAP", bare, "ns"),
        Figure("CPU of a DMA_MAP of a known file: times that", maps / bare, "times", most=1.5),
        Figure("CPU of a DMA_UNMAP", found["unmap"], "ns"),
    ]  # fmt: skip


class _Bench:
    """The spaces, and buffers of plain memory."""

    def __init__(self, library: ctypes.CDLL, folder: Path) -> None:
        self._library: Any = library
        self._fd = os.memfd_create("guest")
        self._bytes = MANY * PAGE
        os.ftruncate(self._fd, self._bytes)
        self._guest = mmap.mmap(self._fd, self._bytes)
        self._plain = mmap.mmap(-1, FILE)
        for memory in (self._guest, self._plain):  # every page is there before anything is timed
            for at in range(0, len(memory), PAGE):
                memory[at] = 1
        self._file = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        os.write(self._file, bytes(FILE))
        self._few, self._many = (self._space(areas) for areas in (FEW, MANY))
        self._one = self._space(1)

    def __enter__(self) -> "_Bench":
        return self

    def __exit__(self, *_: object) -> None:
        for space in (self._few, self._many, self._one):
            self._library.drop_space(space)
        os.close(self._file)
        os.close(self._fd)

    def _space(self, areas: int) -> ctypes.c_void_p:
        u64 = ctypes.c_uint64
        return ctypes.c_void_p(self._library.space_of(self._fd, u64(MANY), u64(areas), u64(PAGE)))

    def core(self) -> dict[str, float]:
        """Nanoseconds (heap: bytes) without Python."""
        u64, library = ctypes.c_uint64, self._library
        plain, guest = _address(self._plain), _address(self._guest)
        found = {
            "few": library.translate(self._few, u64(self._bytes)),
            "many": library.translate(self._many, u64(self._bytes)),
            "heap": max(library.heap_of(self._fd, u64(MANY), u64(stride), u64(PAGE)) for stride in (1, UNORDERED)),
            "space 4096 0": library.copy(self._one, None, plain, u64(PAGE), 0, CALLS),
        }
        for size, times in SIZES.items():
            for write in (0, 1):
                found[f"plain {size} {write}"] = library.copy(None, guest, plain, u64(size), write, times)
                found[f"space {size} {write}"] = library.copy(self._one, None, plain, u64(size), write, times)
        found["plain file"] = library.whole_file(None, plain, self._file, u64(FILE))
        found["file"] = library.whole_file(self._one, None, self._file, u64(FILE))
        return found

    def python(self) -> dict[str, float]:
        """Nanoseconds of what a model calls."""
        places = [random.randrange(self._bytes // SMALL) * SMALL for _ in range(CALLS)]
        found = {}
        for name, areas in {"python few": FEW, "python many": MANY}.items():
            with _access(self._fd, areas) as access:
                found[name] = _timed(access, places, SMALL)
                found["python 4 KiB"] = _timed(access, [0] * CALLS, PAGE)
        return found


@contextmanager
def _access(fd: int, areas: int) -> Iterator[Access]:
    """An access object over the same bytes, cut in the same way."""
    ioas = Ioas()
    ends = [MANY * i // areas for i in range(areas + 1)]
    for first, end in pairwise(ends):
        ioas.map(first * PAGE, (end - first) * PAGE, PROT_READ | PROT_WRITE, fd, first * PAGE)
    yield Access(ioas, NoMessages())
    ioas.clear()


def _timed(access: Access, places: list[int], length: int) -> float:
    read = access.read_now
    start = time.perf_counter_ns()
    for place in places:
        read(place, length)
    return (time.perf_counter_ns() - start) / len(places)


def _address(memory: mmap.mmap) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
