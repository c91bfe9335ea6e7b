"""A device with a bit of everything, and a client for it."""

from collections.abc import Iterator

import pytest

from vfuserver import Bar, Intx, KiB, Msi, MsiX, PciDevice, PciIdentity, PowerManagement, VendorSpecific
from vfuserver.testing.local_client import LocalClient


class Sample(PciDevice):
    """Interrupts of every kind, registers, I/O."""

    identity = PciIdentity(vendor=0x1234, device=0x0001)
    capabilities = (
        PowerManagement(),
        Msi(vectors=4),
        MsiX(vectors=3, table_bar=4),
        VendorSpecific(length=8, writable=b"\xff"),
    )
    intx = Intx(pin="B")

    mmio = Bar(0, size=4 * KiB)
    scratch = mmio.rw(0x00, reset=0x55)
    ports = Bar(1, size=16, io=True)
    port = ports.rw(0x00, width=1)
    tables = Bar(4, size=4 * KiB)


@pytest.fixture
def device() -> Iterator[Sample]:
    made = Sample()
    yield made
    made.close()


@pytest.fixture
def client(device: Sample) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached
