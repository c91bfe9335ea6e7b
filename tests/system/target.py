"""What another device's DMA is aimed at in the guest tests: a BAR of mappable memory and one that is not."""

from vfuserver import Bar, KiB, PciDevice, PciExpress, PciIdentity


class Target(PciDevice):
    """Registers that answer, beside memory."""

    identity = PciIdentity(vendor=0x1234, device=0x0AF2, class_code=0xFF0000)
    capabilities = (PciExpress(),)

    registers = Bar(0, size=4 * KiB)
    scratch = registers.rw(0x00)
    shared = Bar(2, size=64 * KiB, bits=64, prefetchable=True, backing=True)
    memory = shared.memory(0, 64 * KiB)
