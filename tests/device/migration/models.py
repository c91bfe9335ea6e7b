"""Small devices for migration: one with a bit of everything, and the same one a version later."""

from collections.abc import Mapping
from typing import Any

from vfuserver import (
    RW,
    AdvancedErrorReporting,
    Bar,
    Doorbell,
    Intx,
    KiB,
    Msi,
    MsiX,
    Option,
    PciDevice,
    PciExpress,
    PciIdentity,
    PowerManagement,
    State,
    VitalProductData,
    job,
    timer,
)


class Everything(PciDevice):
    """Registers, memory, State of every kind, jobs, a timer, doorbells, interrupts of every kind, capabilities."""

    device_name = "everything"
    identity = PciIdentity(vendor=0x1234, device=0x0077)
    capabilities = (
        PowerManagement(),
        Msi(vectors=4),
        MsiX(vectors=3, table_bar=4),
        PciExpress(flr=True),
        VitalProductData(b"fixed...writable", 8),
        AdvancedErrorReporting(),
    )
    intx = Intx(pin="A")
    level = Option(int, 3, "something that must be the same at both ends")

    mmio = Bar(0, size=4 * KiB)
    scratch = mmio.rw(0x00, reset=0x55)
    halves = mmio.rw(0x08, width=8, split="lo-hi")
    words = mmio.array(0x10, RW, count=4)
    bell = mmio.counter(0x20)
    window = mmio.memory(0x100, 64)
    rung = Doorbell(bell)
    tables = Bar(4, size=4 * KiB)

    number = State(1)
    wide = State(1 << 200)
    ratio = State(0.5)
    text = State("idle")
    buffer = State(bytearray(8))
    queue: State[list[Any]] = State([])
    table: State[dict[Any, Any]] = State({})
    seen: tuple[str, ...] = ()

    @timer
    def alarm(self) -> None:
        """Counts."""
        self.number += 1

    @job(several=True)
    async def work(self, count: int, label: str = "w") -> None:
        """Adds to what has been added."""
        self.number += count
        self.text = label

    def on_save(self) -> None:
        """Notes it."""
        self.seen += ("saved",)

    def check_load(self, state: Mapping[str, Any]) -> None:
        """A number that would be wrong."""
        if state["number"] == 666:
            raise ValueError("number must not be 666")

    def on_load(self) -> None:
        """Notes it."""
        self.seen += ("loaded",)
        if self.text == "cannot":
            raise RuntimeError("no")


class Tiny(PciDevice):
    """As little as there can be, so that every byte of its stream can be tried."""

    identity = PciIdentity(vendor=0x1234, device=0x0078)
    mmio = Bar(0, size=16)
    scratch = mmio.rw(0x00)
    word = State(7)


class Streamed(PciDevice):
    """3 MiB that a client may map and that go ahead."""

    identity = PciIdentity(vendor=0x1234, device=0x0079)
    frame = Bar(2, size=4 << 20, bits=64, backing=True, mappable=False, streamed=True)
    pixels = frame.memory(0, 3 << 20)
