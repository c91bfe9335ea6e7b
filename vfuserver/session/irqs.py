"""The client's eventfds: what SET_IRQS set up, and the port through which the device signals.

An index is armed once SET_IRQS has given it eventfds, until it is disabled (DATA_NONE | ACTION_TRIGGER, start and
count 0) or, for an index other than MSI and MSI-X, until its last eventfd is taken away. MSI and MSI-X are armed by a
message without descriptors too: QEMU's first one for MSI-X is start 0, count 1, no fd (field-notes C.6), and the
kernel enables the index by it.

A vector has up to three eventfds: `trigger` is signalled when the device raises it; `mask` and `unmask` when it is
masked or unmasked (vfio-user specification, DEVICE_SET_IRQS). QEMU with KVM uses `unmask` the other way round, as
linux/vfio.h does: KVM signals it when the guest has served a level interrupt. Both can be right at once, because an
edge-triggered epoll sees each signal without consuming it: with a `watch`, a signal on `unmask` unmasks.

It must not know the device: it calls `ready` when vectors were armed or unmasked. All eventfds are owned here.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vfuserver._core import signal
from vfuserver.errors import LocalError
from vfuserver.plain import Descriptor
from vfuserver.session.ports import Watch
from vfuserver.session.resample import Resample
from vfuserver.vfio import Irq, IrqFlags, IrqSetFlags, PciIrq

Ready = Callable[[int, int, int], None]
"""ready(index, start, count): these vectors were armed or unmasked."""

ARMED_WITHOUT_FDS = (PciIrq.MSI, PciIrq.MSIX)

_SLOT = {
    IrqSetFlags.ACTION_TRIGGER: "trigger_fd",
    IrqSetFlags.ACTION_MASK: "mask_fd",
    IrqSetFlags.ACTION_UNMASK: "unmask_fd",
}


class _Vector:
    __slots__ = ("mask_fd", "masked", "trigger_fd", "unmask_fd")

    def __init__(self) -> None:
        self.trigger_fd = self.mask_fd = self.unmask_fd = -1
        self.masked = False

    def carry(self) -> list[Any]:
        fds = [getattr(self, slot) for slot in _SLOT.values()]
        return [self.masked, *(None if fd < 0 else Descriptor(fd) for fd in fds)]


class InterruptPort:
    """A `vfio.Interrupts`, and what SET_IRQS does to it."""

    def __init__(self, irqs: Sequence[Irq], ready: Ready, watch: Watch | None = None) -> None:
        self._irqs = irqs
        self._ready = ready
        self._vectors: list[dict[int, _Vector]] = [{} for _ in irqs]
        self._armed = [False] * len(irqs)
        self._automasked = [bool(irq.flags & IrqFlags.AUTOMASKED) for irq in irqs]
        self._resample = Resample(watch, self._resampled) if watch else None

    # -- the device's side

    def armed(self, index: int) -> bool:
        """True while SET_IRQS has armed the index and not disabled it."""
        return self._armed[index]

    def trigger(self, index: int, vector: int) -> bool:
        """Signals the vector's eventfd. False: masked, or no eventfd. LocalError: the device has no such vector."""
        entry = self._vectors[index].get(vector)
        if entry is None:
            self._must_exist(index, vector)
            return False
        if entry.masked or entry.trigger_fd < 0:
            return False
        signal(entry.trigger_fd)
        if self._automasked[index]:
            self._mask(entry)
        return True

    def _must_exist(self, index: int, vector: int) -> None:
        if not 0 <= vector < self._irqs[index].count:
            raise LocalError(f"vector of {_name(index)} must be 0 to {self._irqs[index].count - 1}, not {vector}")

    # -- the client's side

    def assign(self, action: IrqSetFlags, index: int, start: int, fds: Sequence[int]) -> None:
        """Takes one eventfd per vector from `start` on as the one for `action`. The descriptors are owned here now."""
        for vector, fd in enumerate(fds, start):
            self._replace(index, vector, action, fd)
        if action is IrqSetFlags.ACTION_TRIGGER:
            self._armed[index] = True
            self._ready(index, start, len(fds))

    def deassign(self, action: IrqSetFlags, index: int, start: int, count: int) -> None:
        """Takes the eventfds for `action` away from `count` vectors; also where there are none."""
        for vector in [vector for vector in self._vectors[index] if start <= vector < start + count]:
            self._replace(index, vector, action, -1)
        if action is IrqSetFlags.ACTION_TRIGGER:
            assigned = any(entry.trigger_fd >= 0 for entry in self._vectors[index].values())
            self._armed[index] = assigned or index in ARMED_WITHOUT_FDS

    def disable(self, index: int) -> None:
        """Forgets everything about an index: eventfds, masks, armed."""
        for vector, entry in self._vectors[index].items():
            for slot in _SLOT.values():
                self._close(index, vector, entry, slot)
        self._vectors[index].clear()
        self._armed[index] = False

    def mask(self, index: int, vectors: Iterable[int]) -> None:
        """Vectors do not signal until they are unmasked."""
        for vector in vectors:
            self._mask(self._vectors[index].setdefault(vector, _Vector()))

    def unmask(self, index: int, vectors: Iterable[int]) -> None:
        """Vectors signal again; the device is told, so that it delivers what is pending."""
        vectors = list(vectors)
        for vector in vectors:
            entry = self._vectors[index].setdefault(vector, _Vector())
            entry.masked = False
            if entry.unmask_fd >= 0:
                signal(entry.unmask_fd)
        for start, count in _runs(vectors):
            self._ready(index, start, count)

    def loop_back(self, index: int, vectors: Iterable[int]) -> None:
        """The client signals its own eventfds through us, masked or not (as the kernel does)."""
        for vector in vectors:
            entry = self._vectors[index].get(vector)
            if entry and entry.trigger_fd >= 0:
                signal(entry.trigger_fd)

    def carry(self) -> list[dict[str, Any]]:
        """By index, what another process goes on with."""
        return [
            {"armed": armed, "vectors": [[number, *entry.carry()] for number, entry in vectors.items()]}
            for armed, vectors in zip(self._armed, self._vectors, strict=True)
        ]

    def adopt(self, carried: Sequence[Mapping[str, Any]]) -> None:
        """Goes on with what carry() told, which must be of a device with as many indices. The device is told nothing.

        A signal on `unmask` that was seen already is seen once more: a vector unmasked too early is the lesser evil.
        """
        for index, saved in enumerate(carried):
            for number, masked, *fds in saved["vectors"]:
                for action, fd in zip(_SLOT, fds, strict=True):
                    if fd is not None:
                        self._replace(index, number, action, os.dup(fd.fd))
                self._vectors[index].setdefault(number, _Vector()).masked = masked
            self._armed[index] = saved["armed"]

    def close(self) -> None:
        """Closes every eventfd. Idempotent."""
        for index in range(len(self._vectors)):
            self.disable(index)
        if self._resample:
            self._resample.close()

    def dump(self) -> dict[str, dict[str, Any]]:
        """By index that the device has: whether it is armed, how many vectors have an eventfd, how many are masked."""
        return {
            _name(index): {
                "armed": self._armed[index],
                "eventfds": sum(entry.trigger_fd >= 0 for entry in vectors.values()),
                "masked": sum(entry.masked for entry in vectors.values()),
            }
            for index, vectors in enumerate(self._vectors)
            if self._irqs[index].count
        }

    # -- inside

    def _mask(self, entry: _Vector) -> None:
        entry.masked = True
        if entry.mask_fd >= 0:
            signal(entry.mask_fd)

    def _replace(self, index: int, vector: int, action: IrqSetFlags, fd: int) -> None:
        entry = self._vectors[index].setdefault(vector, _Vector())
        slot = _SLOT[action]
        self._close(index, vector, entry, slot)
        setattr(entry, slot, fd)
        if fd >= 0 and slot == "unmask_fd" and self._resample:
            self._resample.add(fd, index, vector)

    def _close(self, index: int, vector: int, entry: _Vector, slot: str) -> None:
        fd = getattr(entry, slot)
        if fd < 0:
            return
        if slot == "unmask_fd" and self._resample:
            self._resample.remove(fd)
        os.close(fd)
        setattr(entry, slot, -1)

    def _resampled(self, index: int, vector: int) -> None:
        self._vectors[index][vector].masked = False
        self._ready(index, vector, 1)


def _runs(vectors: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending vectors as (start, count) of each run without a gap."""
    runs: list[tuple[int, int]] = []
    for vector in vectors:
        if runs and vector == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((vector, 1))
    return runs


def _name(index: int) -> str:
    return PciIrq(index).name if index in PciIrq._value2member_map_ else f"interrupt index {index}"
