"""Views: client memory at an address of our own, for models that work in place instead of copying.

A view belongs to whoever pinned it, until `release()` (or the end of its `with` block). The client may want the range
back before: then every view that touches it is asked back (`on_revoke`, `wanted`), and whoever unmaps may wait for that
a bounded time. What is not given back by then is revoked by force: pages of zeros stand there from then on, and the
model learns of it at its next call on the view (S4.12). Everything here runs on the loop's thread.

It must not know messages, sessions or devices, nor how long anybody waits.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from vfuserver._core import PROT_READ, PROT_WRITE, Ioas, Pin
from vfuserver.errors import DmaError

log = logging.getLogger(__name__)


class View:
    """`length` bytes of client memory at `iova`, in place. A context manager that releases it.

    A plain load or store cannot fail: in a view that was revoked, or that has faulted because the client cut the file,
    it meets zeros that nobody else sees. That is told by `valid` (False), and by DmaError(EFAULT) from `memory`,
    `release()` and the end of the `with` block (unless that ends by another exception).
    """

    def __init__(self, views: Views, pin: Pin, iova: int, length: int, on_revoke: OnRevoke | None) -> None:
        self.iova = iova
        self.length = length
        self.wanted = False
        """True once the client wants the range back: release the view soon, or lose it."""
        self._views = views
        self._on_revoke = on_revoke
        self._pin: Pin | None = pin
        self._memory = memoryview(pin)
        self._writable = not self._memory.readonly

    @property
    def writable(self) -> bool:
        """Whether `memory` can be written."""
        return self._writable

    @property
    def valid(self) -> bool:
        """True while `memory` is the client's; False once it was released, was revoked or has faulted. Never raises."""
        return self._pin is not None and self._pin.valid

    @property
    def held(self) -> bool:
        """True while it keeps the client's pages: neither released nor revoked."""
        return self._pin is not None and (self._pin.valid or self._pin.faulted)

    @property
    def memory(self) -> memoryview:
        """The bytes. DmaError(EFAULT) once they are not the client's any more."""
        if self._pin is None:
            raise DmaError(errno.EFAULT, f"{self}: it was released")
        if not self._pin.valid:
            raise self._lost(self._pin)
        return self._memory

    def release(self) -> None:
        """Gives the range back: from here on the memory shows zeros, to whoever kept a slice of it. Idempotent.

        DmaError(EFAULT) if it had been revoked or had faulted: what was read in it may be zeros, what was written in
        it may be lost.
        """
        error = self._end()
        if error is not None:
            raise error

    def ask_back(self) -> None:
        """The client wants the range: tells the model, once. What its callback raises goes to the log."""
        if self.wanted:
            return
        self.wanted = True
        if self._on_revoke is not None:
            try:
                self._on_revoke(self)
            except Exception:
                log.exception("%s: on_revoke failed", self)

    def revoke(self) -> None:
        """Takes it by force; the model learns of it at its next call."""
        if self._pin is not None:
            self._pin.revoke()

    def touches(self, iova: int, last: int) -> bool:
        """True if it has a byte in [iova, last]."""
        return self.iova <= last and iova < self.iova + self.length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self._end()
        if lost is not None and error is None:
            raise lost

    def __str__(self) -> str:
        return f"{self._views.who}: view of {self.iova:#x}+{self.length:#x}"

    def _end(self) -> DmaError | None:
        pin, self._pin = self._pin, None
        if pin is None:
            return None
        lost = None if pin.valid else self._lost(pin)
        pin.revoke()
        with suppress(BufferError):  # somebody's array is made of it: it shows zeros, and the pages stay for it
            self._memory.release()
        self._views.forget(self)
        return lost

    def _lost(self, pin: Pin) -> DmaError:
        why = "the client's file was cut" if pin.faulted else "the client took the range back"
        return DmaError(errno.EFAULT, f"{self}: {why}; what it shows now are zeros")


OnRevoke: TypeAlias = Callable[[View], None]
"""Called when the client wants a view's range back; it may release the view, or tell whoever uses it to."""


class Views:
    """The live views of one address space, for whoever pins, unmaps or looks."""

    def __init__(self, ioas: Ioas, who: str) -> None:
        """`who` names the device in log lines."""
        self.who = who
        self._ioas = ioas
        self._live: dict[View, None] = {}
        self._asked: list[tuple[set[View], Future[None]]] = []

    @property
    def live(self) -> list[View]:
        """Those that are not released, oldest first."""
        return list(self._live)

    def pin(self, iova: int, length: int, writable: bool, on_revoke: OnRevoke | None = None) -> View:
        """A new view. DmaError: EFAULT (not all of it is mapped here), EPERM, ENOSPC (too many views), EINVAL (empty,
        or areas that share a page)."""
        pin = Pin(self._ioas, iova, length, PROT_READ | PROT_WRITE if writable else PROT_READ)
        view = View(self, pin, iova, length, on_revoke)
        self._live[view] = None
        return view

    def inside(self, iova: int, last: int) -> list[View]:
        """The live views that touch [iova, last], oldest first."""
        return [view for view in self._live if view.held and view.touches(iova, last)]

    def ask_back(self, iova: int, last: int) -> Future[None]:
        """Asks for every view that touches [iova, last]; done when all of them are released (`asyncio.wrap_future`
        awaits it; nothing here needs a loop)."""
        done: Future[None] = Future()
        views = self.inside(iova, last)
        waited_for = set(views)
        self._asked.append((waited_for, done))
        for view in views:
            view.ask_back()
        self._settle()
        return done

    def revoke(self, iova: int, last: int) -> int:
        """Takes every view that touches [iova, last] by force, and says so in the log; how many."""
        held = self.inside(iova, last)
        count = self._ioas.revoke(iova, last)
        for view in held:
            log.error(
                "%s was not given back for an unmap of [%#x, %#x]: revoked by force (EDEADLK); the model must release "
                "its views when on_revoke is called",
                view,
                iova,
                last,
            )
            self.forget(view)
        return count

    def forget(self, view: View) -> None:
        """A view is not live any more."""
        self._live.pop(view, None)
        for waited_for, _ in self._asked:
            waited_for.discard(view)
        self._settle()

    def close(self) -> None:
        """The client is gone: every model is told, and what it does not release at once is revoked."""
        for view in tuple(self._live):
            view.ask_back()
        for view in tuple(self._live):
            view.revoke()
            self.forget(view)

    def _settle(self) -> None:
        for waited_for, done in self._asked:
            if not waited_for and not done.done():
                done.set_result(None)
        self._asked = [(waited_for, done) for waited_for, done in self._asked if not done.done()]
