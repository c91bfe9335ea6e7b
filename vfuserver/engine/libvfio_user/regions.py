"""A Backend's regions, doorbells and interrupt counts, told to a context. Configuration space is a region as any other:
the library hands on every access, so our own bytes serve it.

A callback serves an access by the region's table, the very code of the default engine, or by its `access`; one that may
take time has been made by then (`ahead`), and the callback hands out its answer. It must not know connections.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from vfuserver.engine.libvfio_user import api
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.errors import LocalError
from vfuserver.vfio import Backend, IoEvent, Later, PciRegion, Region, RegionFlags

EXTENDED: Final = 4096
"""Bytes of a PCI Express function's configuration space."""
NO_FD: Final = -1

Made = Callable[[], bytes | None]
"""made(): the answer of the access, if it was made ahead (`Ahead.take`)."""


class Accesses:
    """Serves one region's accesses."""

    def __init__(self, ffi: Any, region: Region, made: Made, masks: bool) -> None:
        """`masks`: a read that fails gives all ones, a write is as if it were done (the quirk region-errors)."""
        self._ffi, self._region, self._made, self._masks = ffi, region, made, masks

    def serve(
        self, refused: Callable[[int, BaseException], None], buffer: Any, count: int, at: int, write: bool
    ) -> int:
        """The library's callback; `refused(offset, error)` tells the operator of one that fails."""
        try:
            data = self._made()
            if data is None:
                data = self._access(at, count, bytes(self._ffi.buffer(buffer, count)) if write else None)
            if not write:
                self._ffi.memmove(buffer, data, count)
        except Exception as error:
            if not self._masks:
                raise
            refused(at, error)
            if not write:
                self._ffi.memmove(buffer, b"\xff" * count, count)
        return count

    def _access(self, offset: int, count: int, data: bytes | None) -> bytes:
        region = self._region
        if region.table is not None:
            if data is None:
                return region.table.read(offset, count)
            region.table.write(offset, data)
            return b""
        answer = region.access(offset, count, data) if region.access is not None else None
        if isinstance(answer, Later) or (data is None and answer is None):
            raise LocalError(f"an access of {count} bytes at {offset:#x} gave {answer!r}, must have been done at once")
        return answer or b""


def set_up(
    context: Context, backend: Backend, made: Made, masks: bool, failed: Callable[[int, int, BaseException], None]
) -> None:
    """Tells the context of every region and interrupt. `failed(region, offset, error)`: an access was refused.

    UsageError: the library refuses one.
    """
    express = backend.regions[PciRegion.CONFIG].size == EXTENDED
    kind = api.PciType.EXPRESS if express else api.PciType.CONVENTIONAL
    context.must(context.lib.vfu_pci_init(context.handle, kind, api.HEADER_NORMAL, 0), "a PCI device")
    for index, region in enumerate(backend.regions):
        if region.size:
            _set_up_region(context, index, region, made, masks, partial(failed, index))
    for index, irq in enumerate(backend.irqs):
        context.must(context.lib.vfu_setup_device_nr_irqs(context.handle, index, irq.count), f"interrupt index {index}")


def _set_up_region(
    context: Context, index: int, region: Region, made: Made, masks: bool, failed: Callable[[int, BaseException], None]
) -> None:
    accesses = Accesses(context.ffi, region, made, masks)
    callback = context.access_callback(partial(accesses.serve, failed), failed)
    flags = api.RegionFlag.ALWAYS_CB
    flags |= api.RegionFlag.READ if region.flags & RegionFlags.READ else 0
    flags |= api.RegionFlag.WRITE if region.flags & RegionFlags.WRITE else 0
    fd, base, areas = region.reached_by_one()
    listed = context.ffi.new("struct iovec[]", [(context.ffi.cast("void *", one.offset), one.size) for one in areas])
    given = listed if areas else context.ffi.NULL
    result = context.lib.vfu_setup_region(
        context.handle, index, region.size, callback, flags, given, len(areas), fd if areas else NO_FD, base
    )
    context.must(result, f"region {index} of {region.size} bytes")


class Doorbells:
    """The eventfds of `Region.io_events`. The library is told of a descriptor once and for all, and a doorbell has a
    new eventfd for every client: what it was told of becomes that eventfd (dup2) when a client asks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._places: dict[int, list[tuple[IoEvent, list[int]]]] = {}

    def set_up(self, backend: Backend) -> None:
        """Tells the context of them all. UsageError: the library refuses one."""
        for index, region in enumerate(backend.regions):
            for event in reversed(region.io_events):  # the library lists the last one first
                self._add(index, event, backend.name)

    def give(self, index: int) -> list[tuple[int, IoEvent]]:
        """A client is about to get those of a region: the eventfds to watch, with what is rung."""
        watched = []
        for event, places in self._places.get(index, []):
            fds = event.open()
            for fd, place in zip(fds, places, strict=True):
                os.dup2(fd, place, inheritable=False)
            watched.append((fds[0], event))
        return watched

    def close(self) -> None:
        """After the context is gone. Idempotent."""
        for places in self._places.values():
            for _, fds in places:
                while fds:
                    os.close(fds.pop())

    def _add(self, index: int, event: IoEvent, who: str) -> None:
        fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(1 + event.shadow)]
        self._places.setdefault(index, []).append((event, fds))
        shadow = fds[1] if event.shadow else NO_FD
        match = event.match or 0
        result = self._context.lib.vfu_create_ioeventfd(
            self._context.handle, index, fds[0], event.offset, event.size, int(event.flags), match, shadow, 0
        )
        if result < 0 and event.shadow:  # it was built without them: the client sends messages
            self._places[index].pop()
            for fd in fds:
                os.close(fd)
            return
        self._context.must(result, f"the doorbell at {event.offset:#x} of region {index} of {who}")
