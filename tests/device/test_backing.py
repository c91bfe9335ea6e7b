"""BARs behind one sealed file: messages and mappings see the same bytes, and no client can cut it."""

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from vfuserver import Bar, KiB, PciDevice, PciIdentity, ResetReason
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import MmapArea, RegionFlags

IDENTITY = PciIdentity(vendor=0x1234, device=0x0005)


class Shared(PciDevice):
    """Registers in the first page, mappable memory behind it."""

    identity = IDENTITY
    bar = Bar(2, size=16 * KiB, bits=64, backing=True, mappable=[(0x1000, 0x2000)])
    control = bar.rw(0x0)
    window = bar.memory(0x1000, 0x3000, reset={0x800: b"here"})
    whole = Bar(0, size=8 * KiB, backing=True)
    all_of_it = whole.memory(0, 8 * KiB)
    private = Bar(1, size=8 * KiB, backing=True, mappable=False)
    none_of_it = private.memory(0, 8 * KiB)


@pytest.fixture
def device() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


@pytest.fixture
def client(device: Shared) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached


def test_region_offers_its_file_and_areas(device: Shared) -> None:
    sparse, whole, private = device.regions[2], device.regions[0], device.regions[1]
    assert (sparse.areas, RegionFlags.MMAP in sparse.flags) == ((MmapArea(0x1000, 0x2000),), True)
    assert (whole.areas, whole.fd >= 0) == ((), True)
    assert (private.fd, RegionFlags.MMAP in private.flags) == (-1, False)


def test_messages_and_mappings_see_the_same_bytes(device: Shared, client: LocalClient) -> None:
    with mmap.mmap(device.regions[2].fd, 16 * KiB) as view:
        assert view[0x1800:0x1804] == b"here"
        view[0x1000:0x1004] = b"abcd"
        assert client.read(2, 0x1000) == int.from_bytes(b"abcd", "little")
        client.write(2, 0x1001, 0x7A, 1)
        assert view[0x1000:0x1004] == b"azcd"
        device.window[0:4] = b"2222"
        assert view[0x1000:0x1004] == b"2222"


def test_file_is_sealed_before_it_leaves(device: Shared) -> None:
    fd = device.regions[2].fd
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals
    for size in (0, 32 * KiB):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)


def test_reset_keeps_the_file_and_brings_its_bytes_back(device: Shared, client: LocalClient) -> None:
    """S2.30; testdev: the same file stays."""
    before = device.regions[2].fd
    client.write(2, 0x1800, 0)
    client.write(2, 0, 5)
    device.reset(ResetReason.MESSAGE)
    client.enable()
    assert client.read(2, 0x1800) == int.from_bytes(b"here", "little")
    assert (client.read(2, 0), device.regions[2].fd) == (0, before)


def test_window_is_assigned_by_slices(device: Shared) -> None:
    with pytest.raises(AttributeError, match="assign to a slice"):
        device.window = b"all of it"


def test_snapshot_holds_memory(device: Shared) -> None:
    device.window[4:8] = b"test"
    other = Shared()
    other.restore(device.snapshot())
    assert bytes(other.window[4:8]) == b"test"
    other.close()


def test_close_is_idempotent(device: Shared) -> None:
    fd = device.regions[2].fd
    device.close()
    device.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
