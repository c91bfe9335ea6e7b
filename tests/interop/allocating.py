"""A device for test_raw_allocations: one register for each thing that a hook may do without allocating."""

from typing import Any

from vfuserver import Bar, MsiX, PciDevice, PciIdentity


class Frugal(PciDevice):
    """What its hooks are told and tell are numbers that Python keeps anyway (-5 to 256), except where they say so."""

    identity = PciIdentity(0x1234, 0x0020)
    capabilities = (MsiX(vectors=2, table_bar=4),)
    decodes_always = masters_always = True
    mmio = Bar(0, size=4096)
    plain = mmio.rw(0x00)
    hooked = mmio.rw(0x04)
    latest = mmio.rw(0x08)
    raising = mmio.wo(0x0C)
    copying = mmio.wo(0x10)
    wasteful = mmio.rw(0x14)
    large = mmio.rw(0x18, reset=0x1234_5678)
    vectors = Bar(4, size=4096)
    memory = Bar(2, size=65536)
    bytes_of_it = memory.memory(0, 65536)

    def __init__(self, **options: Any) -> None:
        self.kept: list[bytes] = []
        super().__init__(**options)

    @hooked.on_read
    def tell(self) -> int:
        return 7

    @hooked.on_write
    def see(self, value: int) -> int:
        return value

    @latest.on_latest_write
    def see_latest(self, value: int) -> int:
        return value

    @raising.on_write
    def raise_vector(self, vector: int) -> None:
        self.interrupt(vector)

    @copying.on_write
    def copy_in_guest(self, length: int) -> None:
        self.dma.copy_now(0, 128, length)

    @wasteful.on_read
    def waste(self) -> int:
        return len(bytes(100))

    @wasteful.on_write
    def keep(self, value: int) -> None:
        self.kept.append(bytes(value))

    @large.on_read
    def tell_large(self) -> int:
        return self.large
