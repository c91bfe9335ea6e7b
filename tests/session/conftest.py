"""Fixtures of the session's tests."""

import os
from collections.abc import Iterator

import pytest

from tests.session.device import LittleDevice
from tests.session.harness import Wire
from tests.session.interrupts import Events


@pytest.fixture
def device() -> Iterator[LittleDevice]:
    backend = LittleDevice()
    yield backend
    backend.close()


@pytest.fixture
def fresh(device: LittleDevice) -> Iterator[Wire]:
    """A connection before VERSION."""
    wire = Wire(device)
    yield wire
    wire.close()


@pytest.fixture
def wire(fresh: Wire) -> Wire:
    """A negotiated connection."""
    fresh.negotiate()
    return fresh


@pytest.fixture
def events() -> Iterator[Events]:
    made: list[int] = []

    def make(count: int) -> list[int]:
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        made.extend(fds)
        return fds

    yield make
    for fd in made:
        os.close(fd)
