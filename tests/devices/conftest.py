"""testdev and a client for it."""

from collections.abc import Iterator

import pytest

from vfuserver import PciDevice, load
from vfuserver.testing.local_client import LocalClient


@pytest.fixture
def device() -> Iterator[PciDevice]:
    one = load("testdev")()
    yield one
    one.close()


@pytest.fixture
def client(device: PciDevice) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached
