from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError, LocalError
from vfuserver.pci import ConfigSpace
from vfuserver.pci.caps.msi import Msi
from vfuserver.vfio import PciIrq

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]

ALL_ONES = [
    (Msi(4, address64=False, maskable=False), "05000500 00000000 0000", "05002500 fcffffff ffff"),
    (Msi(4, address64=True, maskable=False), "05008500 00000000 00000000 0000", "0500a500 fcffffff ffffffff ffff"),
    (
        Msi(4, address64=False, maskable=True),
        "05000401 00000000 00000000 00000000 00000000",
        "05002501 fcffffff ffff0000 0f000000 00000000",
    ),
    (
        Msi(4, address64=True, maskable=True),
        "05008401 00000000 00000000 00000000 00000000 00000000",
        "0500a501 fcffffff ffffffff ffff0000 0f000000 00000000",
    ),
]


def live(config: ConfigSpace) -> Msi:
    msi = config.find(Msi)
    assert msi is not None
    return msi


@pytest.mark.parametrize(("declared", "reset", "written"), ALL_ONES, ids=["32", "64", "32+mask", "64+mask"])
def test_msi_all_ones_per_layout_gives_expected_image(make: Make, declared: Msi, reset: str, written: str) -> None:
    """S2.19, S2.20: write all ones over each layout, compare. S2.9: lengths 10, 14, 20 and 24."""
    config = make(declared)
    assert declared.length == len(bytes.fromhex(written))
    config.access(0x40, declared.length, b"\xff" * declared.length)
    assert live(config).snapshot() == bytes.fromhex(written)


@pytest.mark.parametrize(("vectors", "qsize", "stored"), [(1, 3, 0), (4, 1, 1), (4, 2, 2), (4, 5, 2), (32, 7, 5)])
def test_msi_qsize_above_qmask_is_clamped(make: Make, vectors: int, qsize: int, stored: int) -> None:
    """S2.19: QSIZE above QMASK is clamped."""
    config = make(Msi(vectors))
    config.write(0x42, 2, qsize << 4 | 1)
    assert config.read(0x42, 1) & 0x71 == stored << 4 | 1


def test_msi_qsize_kept_by_write_to_other_registers(make: Make) -> None:
    config = make(Msi(4))
    config.write(0x42, 2, 0x21)
    config.write(0x43, 1, 0xFF)
    config.write(0x44, 4, 0xFEE0_0000)
    assert config.read(0x42, 2) == 0x01A5


def test_msi_mask_of_implemented_vectors_only(make: Make, events: Events) -> None:
    """S2.20: mask bits are writable for implemented vectors."""
    config = make(Msi(4))
    config.write(0x50, 4, 0xFFFF_FFF8)
    assert [live(config).masked(vector) for vector in range(4)] == [False, False, False, True]
    assert events == [("interrupts", PciIrq.MSI)]


def test_msi_pending_is_the_server_s(make: Make) -> None:
    """S2.20: pending is read-only and shows what the device sets."""
    config = make(Msi(4))
    live(config).set_pending(3, True)
    config.write(0x54, 4, 0xFFFF_FFFF)
    assert config.read(0x54, 4) == 8
    config.write(0x54, 4, 0)
    assert live(config).pending(3)
    live(config).set_pending(3, False)
    assert config.read(0x54, 4) == 0


def test_msi_reset_clears_mask_and_pending(make: Make) -> None:
    """S2.20: reset clears both."""
    config = make(Msi(4))
    config.write(0x50, 4, 0xF)
    live(config).set_pending(0, True)
    config.reset()
    assert config.read(0x50, 8) == 0


def test_msi_enable_reads_as_written_and_is_told(make: Make, events: Events) -> None:
    """S2.19: ENABLE reads as written."""
    config = make(Msi())
    config.write(0x42, 2, 1)
    assert live(config).enabled
    config.write(0x42, 2, 1)
    config.write(0x42, 2, 0)
    assert not live(config).enabled
    assert events == [("interrupts", PciIrq.MSI)] * 2


@pytest.mark.parametrize(("address64", "mask"), [(False, 0x4C), (True, 0x50)])
def test_msi_each_mask_bit_masks_its_own_vector_and_no_other(make: Make, address64: bool, mask: int) -> None:
    """S2.20: in every byte of the register, in both layouts that have one."""
    config = make(Msi(32, address64=address64))
    for vector in range(32):
        config.write(mask, 4, 1 << vector)
        assert [one for one in range(32) if live(config).masked(one)] == [vector]


def test_msi_without_masks_is_never_masked_nor_pending(make: Make) -> None:
    msi = live(make(Msi(2, maskable=False)))
    msi.set_pending(1, True)
    assert (msi.masked(1), msi.pending(1)) == (False, False)


@pytest.mark.parametrize("maskable", [False, True])
@pytest.mark.parametrize("vector", [-1, 4])
def test_msi_vector_that_is_not_there_is_the_device_s_error(make: Make, vector: int, maskable: bool) -> None:
    msi = live(make(Msi(4, maskable=maskable)))
    for call in (msi.masked, msi.pending, lambda index: msi.set_pending(index, True)):
        with pytest.raises(LocalError, match="MSI vector must be 0 to 3"):
            call(vector)


@pytest.mark.parametrize("vectors", [0, 3, 64])
def test_msi_impossible_vector_count_refused(vectors: int) -> None:
    with pytest.raises(DeclarationError, match=r"Msi.vectors must be a power of two from 0x1 to 0x20"):
        Msi(vectors)
