"""QEMU's pvpanic-pci: a guest that panics says so (docs/specs/pvpanic in QEMU). The smallest example."""

from vfuserver import Bar, PciDevice, PciIdentity

EVENTS = {
    0x01: "the guest has panicked",
    0x02: "the guest has panicked and handles it",
    0x04: "the guest has shut down",
}


class Pvpanic(PciDevice):
    """One byte: a read says which events are understood, a write reports some."""

    identity = PciIdentity(vendor=0x1B36, device=0x0011, revision=1, class_code=0x088000)

    mmio = Bar(0, size=16)
    events = mmio.ro(0x00, width=1, reset=sum(EVENTS), doc="events understood (read), reported (write)")

    @events.on_write
    def report(self, value: int) -> int:
        """Logs what the guest reports; the register keeps saying what is understood."""
        for bit, text in EVENTS.items():
            if value & bit:
                self.log.warning("%s: %s", self.name, text)
        return sum(EVENTS)
