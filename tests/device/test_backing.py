"""BARs behind one sealed file: messages and mappings see the same bytes, and no client can cut it."""

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from vfuserver import Bar, DeclarationError, KiB, PciDevice, PciIdentity, ResetReason
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


class Several(PciDevice):
    """Two pieces of memory with a file each, and registers between them."""

    identity = IDENTITY
    bar = Bar(0, size=32 * KiB, backing="windows")
    control = bar.rw(0x1000)
    first = bar.memory(0x0, 0x1000, reset=b"first")
    second = bar.memory(0x4000, 0x2000, reset=b"second")
    part = Bar(1, size=8 * KiB, backing="windows", mappable=[(0x1000, 0x1000)])
    whole = part.memory(0, 8 * KiB)
    closed = Bar(2, size=4 * KiB, backing="windows", mappable=False)
    inner = closed.memory(0, 4 * KiB)
    nothing = Bar(3, size=4 * KiB, backing=True, mappable=False)


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


# -- a file for each window


@pytest.fixture
def several() -> Iterator[Several]:
    made = Several()
    yield made
    made.close()


def test_each_window_has_its_own_file_at_its_own_offset(several: Several) -> None:
    region = several.regions[0]
    first, second = region.areas
    assert (region.fd, RegionFlags.MMAP in region.flags) == (-1, True)
    assert (first.offset, first.size, first.fd_offset) == (0, 0x1000, 0)
    assert (second.offset, second.size, second.fd_offset) == (0x4000, 0x2000, 0x4000)
    assert not os.path.sameopenfile(first.fd, second.fd)
    assert [os.pread(area.fd, 6, area.fd_offset) for area in region.areas] == [b"first\0", b"second"]


def test_windows_and_messages_see_the_same_bytes(several: Several) -> None:
    second = several.regions[0].areas[1]
    with LocalClient(several) as client, mmap.mmap(second.fd, second.size, offset=second.fd_offset) as view:
        client.enable()
        client.write(0, 0x5FFC, 0x12345678)
        assert view[0x1FFC:] == b"\x78\x56\x34\x12"
        view[0:4] = b"SECO"
        assert client.read(0, 0x4000, 4) == int.from_bytes(b"SECO", "little")
        assert bytes(several.second[0:4]) == b"SECO"


def test_windows_are_sealed_each(several: Several) -> None:
    for area in several.regions[0].areas:
        with pytest.raises(PermissionError):
            os.ftruncate(area.fd, 0)


def test_part_of_a_window_may_be_mapped_or_nothing(several: Several) -> None:
    (area,) = several.regions[1].areas
    assert (area.offset, area.size, area.fd_offset) == (0x1000, 0x1000, 0x1000)
    assert several.regions[2].areas == several.regions[3].areas == ()


def test_an_area_must_lie_in_one_window() -> None:
    bar = Bar(0, size=8 * KiB, backing="windows", mappable=[(0, 8 * KiB)])
    members = {"identity": IDENTITY, "bar": bar, "one": bar.memory(0, 4 * KiB), "two": bar.memory(4 * KiB, 4 * KiB)}
    with pytest.raises(DeclarationError, match=r"Wrong\.bar: mappable areas must lie in memory\(\), not 0x0\+0x2000"):
        type("Wrong", (PciDevice,), members)


def test_backing_of_another_kind_is_refused() -> None:
    with pytest.raises(DeclarationError, match="BAR0: backing must be True, False or 'windows', not 'each'"):
        Bar(0, size=4 * KiB, backing="each")  # type: ignore[arg-type]
