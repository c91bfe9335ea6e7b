"""ACCES PCI-IDIO-16: 16 isolated inputs, 16 FET outputs, an interrupt on any input change.

From ACCES's manual of the card, chapter 4, and what Linux's drivers gpio-pci-idio-16 and gpio-idio-16 expect.
"""

from vfuserver import Bar, Intx, Option, PciDevice, PciIdentity, State

LATCHED = 0x04
LOW_CHANGED, HIGH_CHANGED = 0x01, 0x02


class IdioPorts(PciDevice, abstract=True):
    """Eight byte-wide ports. Reading and writing one address often mean different things.

    What the lines are wired to, a class that derives from it says in `outputs_changed`.
    """

    identity = PciIdentity(vendor=0x494F, device=0x0DC8, class_code=0x118000)
    intx = Intx(pin="A")

    levels = State(0, doc="the inputs, a bit each")
    enabled = State(False, doc="input changes interrupt")
    filters = State(0, doc="input filters 0-7")
    all_filters = State(False, doc="all 16 input filters are on")

    ports = Bar(2, size=256, io=True)
    out_low = ports.rw(0x00, width=1, doc="FET drive outputs 0-7")
    in_low = ports.ro(0x01, width=1, doc="read: isolated inputs 0-7; write: clear interrupt")
    irq_control = ports.ro(0x02, width=1, doc="read: enable IRQ; write: disable IRQ")
    filter_control = ports.ro(0x03, width=1, doc="read: activate input filters 0-15; write: deactivate them")
    out_high = ports.rw(0x04, width=1, doc="FET drive outputs 8-15")
    in_high = ports.ro(0x05, width=1, doc="isolated inputs 8-15")
    irq_status = ports.ro(0x06, width=1, doc="bit 2: interrupt; bits 0, 1: inputs 0-7, 8-15 have changed")
    filter_status = ports.rw(0x07, width=1, doc="input filters 0-7, where not all are activated")

    def set_inputs(self, levels: int) -> None:
        """Drives the 16 inputs, a bit each; a change latches the interrupt if it is enabled."""
        changed = (self.levels ^ levels) & 0xFFFF
        self.levels = levels & 0xFFFF
        self.in_low, self.in_high = self.levels & 0xFF, self.levels >> 8
        if changed and self.enabled:
            which = LOW_CHANGED * bool(changed & 0x00FF) | HIGH_CHANGED * bool(changed & 0xFF00)
            self.irq_status = self.irq_status | LATCHED | which
            self.intx.raise_()

    def outputs_changed(self, outputs: int) -> None:
        """The guest drives the 16 outputs, a bit each."""

    @out_low.on_write
    def drive_low(self, value: int) -> None:
        """Outputs 0-7."""
        self.outputs_changed(value | self.out_high << 8)

    @out_high.on_write
    def drive_high(self, value: int) -> None:
        """Outputs 8-15."""
        self.outputs_changed(self.out_low | value << 8)

    @in_low.on_write
    def clear_interrupt(self, _value: int) -> None:
        """Any write clears the interrupt."""
        self.irq_status = 0
        self.intx.lower()

    @irq_control.on_read
    def enable_irq(self) -> None:
        """Any read enables interrupts; one that is latched still is due."""
        self.enabled = True
        if self.irq_status & LATCHED:
            self.intx.raise_()

    @irq_control.on_write
    def disable_irq(self, _value: int) -> None:
        """Any write disables interrupts; what is latched stays so."""
        self.enabled = False
        self.intx.lower()

    @filter_control.on_read
    def activate_filters(self) -> None:
        """Any read activates the filters of all inputs."""
        self._set_filters(0xFF, everything=True)

    @filter_control.on_write
    def deactivate_filters(self, _value: int) -> None:
        """Any write deactivates them."""
        self._set_filters(0, everything=False)

    @filter_status.on_write
    def control_filters(self, value: int) -> int:
        """Filters 0-7 one by one, unless all have been activated."""
        if not self.all_filters:
            self._set_filters(value, everything=False)
        return self.filters

    def _set_filters(self, filters: int, *, everything: bool) -> None:
        self.filters = self.filter_status = filters
        self.all_filters = everything


class GpioIdio16(IdioPorts):
    """The card by itself."""

    loopback = Option(bool, False, "input n is wired to output n")
    inputs = Option(int, 0, "level of the 16 inputs at power-on, a bit each (without loopback)")

    def on_reset(self) -> None:
        """Outputs are off; inputs have the level that was set, or the outputs'."""
        self.set_inputs(0 if self.loopback else self.inputs)

    def outputs_changed(self, outputs: int) -> None:
        """With loopback the inputs follow."""
        if self.loopback:
            self.set_inputs(outputs)
