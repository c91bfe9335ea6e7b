"""INTx is a level: STATUS shows it, an eventfd is signalled for each edge, and again when the client lost sight."""

import pytest

from vfuserver import ResetReason
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

from .conftest import Sample

INTX = PciIrq.INTX


@pytest.fixture
def armed(client: LocalClient) -> LocalClient:
    client.arm(INTX)
    return client


def status(client: LocalClient) -> int:
    return client.read_config(0x06, 1)[0] >> 3 & 1


def test_assertion_signals_once(armed: LocalClient, device: Sample) -> None:
    device.intx.raise_()
    device.intx.raise_()
    assert armed.taken(INTX) == 1
    assert status(armed) == 1


def test_each_edge_signals(armed: LocalClient, device: Sample) -> None:
    for _ in range(3):
        device.intx.raise_()
        device.intx.lower()
    assert armed.taken(INTX) == 3
    assert status(armed) == 0


def test_unmask_signals_again_while_asserted(armed: LocalClient, device: Sample) -> None:
    """Field notes C.6: QEMU takes any BAR access as the end of the interrupt and unmasks."""
    device.intx.raise_()
    armed.taken(INTX)
    armed.unmask(INTX)
    assert armed.taken(INTX) == 1
    device.intx.lower()
    armed.unmask(INTX)
    assert armed.taken(INTX) == 0


def test_line_asserted_while_masked_is_signalled_on_unmask(armed: LocalClient, device: Sample) -> None:
    armed.mask(INTX)
    device.intx.raise_()
    assert armed.taken(INTX) == 0
    armed.unmask(INTX)
    assert armed.taken(INTX) == 1


def test_intx_disable_keeps_it_silent_and_status_shown(armed: LocalClient, device: Sample) -> None:
    """S2.16, by a byte write at offset 5."""
    armed.write_config(0x05, b"\x04")
    device.intx.raise_()
    assert (armed.taken(INTX), status(armed)) == (0, 1)
    armed.write_config(0x05, b"\x00")
    assert armed.taken(INTX) == 1


def test_line_asserted_before_arming_is_signalled_when_armed(client: LocalClient, device: Sample) -> None:
    device.intx.raise_()
    client.arm(INTX)
    assert client.taken(INTX) == 1


def test_line_asserted_without_a_client_is_signalled_to_the_next(device: Sample) -> None:
    device.intx.raise_()
    with LocalClient(device) as client:
        client.arm(INTX)
        assert client.taken(INTX) == 1


def test_line_asserted_while_stopped_is_signalled_when_it_runs(armed: LocalClient, device: Sample) -> None:
    """S3.9."""
    device.stop()
    device.intx.raise_()
    assert armed.taken(INTX) == 0
    device.run()
    assert armed.taken(INTX) == 1


def test_reset_lowers_the_line_and_keeps_the_eventfd(armed: LocalClient, device: Sample) -> None:
    """S2.30."""
    device.intx.raise_()
    armed.taken(INTX)
    device.reset(ResetReason.MESSAGE)
    assert (device.intx.asserted, status(armed)) == (False, 0)
    device.intx.raise_()
    assert armed.taken(INTX) == 1


def test_bus_mastering_does_not_matter(armed: LocalClient, device: Sample) -> None:
    armed.enable(0x0003)
    device.intx.raise_()
    assert armed.taken(INTX) == 1


def test_level_survives_a_snapshot(armed: LocalClient, device: Sample) -> None:
    device.intx.raise_()
    other = Sample()
    other.restore(device.snapshot())
    with LocalClient(other) as client:
        client.arm(INTX)
        assert (client.taken(INTX), status(client)) == (1, 1)
    other.close()
