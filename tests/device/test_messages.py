"""MSI and MSI-X: armed by SET_IRQS, pending while anything is in the way, delivered once when it is gone."""

from collections.abc import Callable

import pytest

from vfuserver import LocalError, ResetReason
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

from .conftest import Sample

INTX, MSI, MSIX, ERR, REQ = PciIrq
MSI_AT, MSIX_AT = 0x05, 0x11
TABLE, PBA = 0, 0x800


def capability(client: LocalClient, number: int) -> int:
    at = client.read_config(0x34, 1)[0]
    while client.read_config(at, 1)[0] != number:
        at = client.read_config(at + 1, 1)[0]
    return at


def test_vector_goes_to_msix_then_msi_then_intx(client: LocalClient, device: Sample) -> None:
    """S2.19: ENABLE bits do not count, armed indexes do."""
    client.arm(INTX)
    device.interrupt(1)
    client.arm(MSI, 4)
    device.interrupt(1)
    client.arm(MSIX, 3)
    device.interrupt(1)
    assert (client.taken(INTX), client.taken(MSI, 1), client.taken(MSIX, 1)) == (1, 1, 1)


def test_vector_that_the_index_lacks_is_refused(client: LocalClient, device: Sample) -> None:
    client.arm(MSIX, 3)
    with pytest.raises(LocalError, match="MSIX vector must be less than 3, not 3"):
        device.interrupt(3)


def mask_by_set_irqs(client: LocalClient) -> Callable[[], None]:
    client.mask(MSIX, 1)
    return lambda: client.unmask(MSIX, 1)


def mask_by_maskall(client: LocalClient) -> Callable[[], object]:
    at = capability(client, MSIX_AT) + 3
    client.write_config(at, b"\xc0")
    return lambda: client.write_config(at, b"\x80")


def mask_by_bus_master(client: LocalClient) -> Callable[[], None]:
    client.enable(0x0003)
    return lambda: client.enable(0x0007)


def mask_by_table(client: LocalClient) -> Callable[[], None]:
    client.write(4, TABLE + 16 + 12, 1)
    return lambda: client.write(4, TABLE + 16 + 12, 0)


def mask_by_stop(client: LocalClient) -> Callable[[], None]:
    device = client.backend
    assert isinstance(device, Sample)
    device.stop()
    return device.run


@pytest.mark.parametrize(
    "mask",
    [mask_by_set_irqs, mask_by_maskall, mask_by_bus_master, mask_by_table, mask_by_stop],
    ids=lambda m: m.__name__,
)
def test_masked_msix_vector_is_pending_and_delivered_once(
    client: LocalClient, device: Sample, mask: Callable[[LocalClient], Callable[[], None]]
) -> None:
    """S2.21, S2.15, S3.9: pending bit 1, raise twice, one event."""
    client.arm(MSIX, 3)
    unmask = mask(client)
    device.interrupt(1)
    device.interrupt(1)
    assert (client.taken(MSIX, 1), client.read(4, PBA)) == (0, 2)
    unmask()
    assert (client.taken(MSIX, 1), client.read(4, PBA)) == (1, 0)


def test_vector_raised_without_a_client_waits_for_the_next(device: Sample) -> None:
    with LocalClient(device) as client:
        client.enable()
        client.arm(MSIX, 3)
    device.interrupt(2)
    with LocalClient(device) as client:
        assert client.read(4, PBA) == 4
        client.arm(MSIX, 3)
        assert (client.taken(MSIX, 2), client.read(4, PBA)) == (1, 0)


def test_vector_without_an_eventfd_is_pending_until_it_has_one(client: LocalClient, device: Sample) -> None:
    """Field notes C.6: QEMU arms vector by vector."""
    client.arm(MSIX, 1)
    device.interrupt(2)
    assert client.read(4, PBA) == 4
    client.arm(MSIX, 3)
    assert (client.taken(MSIX, 2), client.read(4, PBA)) == (1, 0)


def test_table_nobody_wrote_masks_nothing(client: LocalClient, device: Sample) -> None:
    """S2.21: QEMU keeps the table to itself, and its reset value is masked."""
    client.arm(MSIX, 3)
    assert client.read(4, TABLE + 12) == 1
    device.interrupt(0)
    assert client.taken(MSIX, 0) == 1


def test_pending_bits_are_read_only(client: LocalClient, device: Sample) -> None:
    client.arm(MSIX, 1)
    device.interrupt(1)
    client.write(4, PBA, 0xFFFF_FFFF)
    assert client.read(4, PBA) == 2


def test_table_keeps_writable_bits_only(client: LocalClient) -> None:
    for dword in range(4):
        client.write(4, TABLE + 4 * dword, 0xFFFF_FFFF)
    assert [client.read(4, TABLE + 4 * dword) for dword in range(4)] == [0xFFFF_FFFC, 0xFFFF_FFFF, 0xFFFF_FFFF, 1]


def test_msi_mask_makes_a_vector_pending_and_unmask_sends_it_once(client: LocalClient, device: Sample) -> None:
    """S2.20: mask vector 3, raise twice, pending = 8, no event; unmask: one event, pending 0."""
    at = capability(client, MSI_AT)
    client.arm(MSI, 4)
    client.write_config(at + 0x10, b"\x08")
    device.interrupt(3)
    device.interrupt(3)
    client.write_config(at + 0x14, b"\0\0\0\0")
    assert (client.taken(MSI, 3), client.read_config(at + 0x14, 1)) == (0, b"\x08")
    client.write_config(at + 0x10, b"\x00")
    assert (client.taken(MSI, 3), client.read_config(at + 0x14, 1)) == (1, b"\0")


def test_reset_drops_what_is_pending_and_forgets_the_table(client: LocalClient, device: Sample) -> None:
    """S2.20, S2.21, S2.30."""
    client.arm(MSIX, 3)
    client.write(4, TABLE + 12, 1)
    device.interrupt(0)
    device.reset(ResetReason.MESSAGE)
    client.enable()
    assert (client.read(4, PBA), client.taken(MSIX, 0)) == (0, 0)
    device.interrupt(0)
    assert client.taken(MSIX, 0) == 1


def test_error_and_request_are_pulses_that_are_not_kept(client: LocalClient, device: Sample) -> None:
    device.interrupts.error()
    client.arm(ERR)
    client.arm(REQ)
    assert (client.taken(ERR), client.taken(REQ)) == (0, 0)
    device.interrupts.error()
    device.interrupts.request()
    assert (client.taken(ERR), client.taken(REQ)) == (1, 1)


def test_pending_vectors_survive_a_snapshot(client: LocalClient, device: Sample) -> None:
    """S2.31: pending interrupts travel."""
    client.arm(MSIX, 1)
    device.interrupt(2)
    other = Sample()
    other.restore(device.snapshot())
    with LocalClient(other) as second:
        second.enable()
        second.arm(MSIX, 3)
        assert second.taken(MSIX, 2) == 1
    other.close()
