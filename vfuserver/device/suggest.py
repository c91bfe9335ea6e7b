"""--suggest: says once for each place what a guest wanted of registers that nobody declared.

The core counts such accesses anyway; this hangs a log line on the first one of each kind. It must not know who asks.
"""

from collections.abc import Callable

from vfuserver.device.pci_device import PciDevice


def suggest(device: PciDevice, say: Callable[[str], None] | None = None) -> None:
    """From now on tells `say` (the device's log, as a warning, by default) about undeclared accesses.

    `guest wrote 0x10 to BAR0+0x18 (4 bytes), nobody declared it`, once for each offset, width and direction.
    """
    tell = say or device.log.warning
    for bar in device.bars.values():
        bar.table.on_undeclared = _once(bar.declared.label, tell)


def _once(label: str, tell: Callable[[str], None]) -> Callable[[int, int, int | None], None]:
    told: set[tuple[int, int, bool]] = set()

    def undeclared(offset: int, width: int, value: int | None) -> None:
        place = offset, width, value is None
        if place in told:
            return
        told.add(place)
        what = f"read {label}" if value is None else f"wrote {value:#x} to {label}"
        tell(f"guest {what}+{offset:#x} ({width} byte{'s' * (width > 1)}), nobody declared it")

    return undeclared
