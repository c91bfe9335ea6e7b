from collections.abc import Callable

import pytest

from vfuserver.pci import ConfigSpace
from vfuserver.pci.caps.advanced_features import AdvancedFeatures
from vfuserver.vfio import ResetReason

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]


def test_af_is_six_bytes_with_tp_and_flr(make: Make) -> None:
    """S2.9, S2.26."""
    assert make(AdvancedFeatures()).access(0x40, 6, None) == bytes.fromhex("1300 06 03 00 00")


@pytest.mark.parametrize(("offset", "data"), [(0x44, b"\x01"), (0x44, b"\x01\xff"), (0x40, b"\xff" * 6)])
def test_af_flr_runs_reset_once_and_reads_zero(make: Make, events: Events, offset: int, data: bytes) -> None:
    """S2.26: by any access that reaches the bit."""
    config = make(AdvancedFeatures())
    config.write(0x10, 4, 0xFEB0_0000)
    config.access(offset, len(data), data)
    assert events == [("reset", ResetReason.FLR)]
    assert config.image == config.reset_image


def test_af_other_bits_do_nothing(make: Make, events: Events) -> None:
    config = make(AdvancedFeatures())
    config.write(0x44, 1, 0xFE)
    assert (config.read(0x44, 1), events) == (0, [])


def test_af_without_flr_ignores_the_bit(make: Make, events: Events) -> None:
    config = make(AdvancedFeatures(flr=False))
    config.write(0x44, 1, 0x01)
    assert (config.read(0x43, 1), config.read(0x44, 1), events) == (0, 0, [])
