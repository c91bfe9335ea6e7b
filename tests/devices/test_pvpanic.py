"""pvpanic, as Linux's pvpanic-pci and QEMU's docs/specs/pvpanic have it."""

import logging
from inspect import getfile
from pathlib import Path

import pytest

from vfuserver import load
from vfuserver.testing.local_client import LocalClient


def test_events_are_advertised_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    device = load("pvpanic")()
    with LocalClient(device) as client, caplog.at_level(logging.WARNING):
        client.enable(0x0002)
        assert client.read(0, 0, 1) == 7
        client.write(0, 0, 1, 1)
        assert client.read(0, 0, 1) == 7
    assert "pvpanic: the guest has panicked" in caplog.text
    device.close()


def test_identity_is_qemu_s() -> None:
    identity = load("pvpanic").declaration.identity
    assert (identity.vendor, identity.device) == (0x1B36, 0x0011)


def test_it_stays_the_smallest_example() -> None:
    """Issue 2: under 40 lines."""
    assert len(Path(getfile(load("pvpanic"))).read_text().splitlines()) < 40
