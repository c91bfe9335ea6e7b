"""Two PCI-IDIO-16 on one card, the outputs of each wired to the inputs of the other.

No such card is sold; it shows what a card with two functions is, and a stock driver proves it: what is driven at one
gpiochip can be read at the other.
"""

from vfuserver import Card, Function, Intx, Option

from ..gpio_idio_16 import IdioPorts


class WiredPorts(IdioPorts):
    """One half: its inputs are the other half's outputs."""

    card: "IdioPair"

    def on_reset(self) -> None:
        """Its own outputs are off, which the other half sees; its inputs are what the other one drives."""
        self.card.drive(self, 0)
        self.set_inputs(self.card.levels_at(self))

    def outputs_changed(self, outputs: int) -> None:
        """To the card's wires."""
        self.card.drive(self, outputs)


class SecondPorts(WiredPorts):
    """The other half, on an interrupt pin of its own: the driver does not share its interrupt."""

    intx = Intx(pin="B")


class IdioPair(Card):
    """The wires between the two."""

    wired = Option(bool, True, "outputs of each are the inputs of the other (no: all inputs are 0)")

    first = Function(WiredPorts)
    second = Function(SecondPorts)

    def drive(self, source: WiredPorts, outputs: int) -> None:
        """What `source` drives reaches the other one."""
        for target in self._others(source):
            target.set_inputs(outputs if self.wired else 0)

    def levels_at(self, target: WiredPorts) -> int:
        """What the other one drives, 0 while there is none."""
        return sum(other.out_low | other.out_high << 8 for other in self._others(target)) if self.wired else 0

    def _others(self, one: WiredPorts) -> list[WiredPorts]:
        return [other for other in self.functions if other is not one and isinstance(other, WiredPorts)]
