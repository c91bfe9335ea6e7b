from collections.abc import Callable

import pytest

from vfuserver.errors import LocalError
from vfuserver.pci import ConfigSpace
from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting, CorrectableError, UncorrectableError

Make = Callable[..., ConfigSpace]

UNCORRECTABLE, CORRECTABLE = 0x03FF_F030, 0x0000_F1C1
HEADER = bytes(range(0x10, 0x20))


@pytest.fixture
def config(extended: Make) -> ConfigSpace:
    return extended(AdvancedErrorReporting())


@pytest.fixture
def aer(config: ConfigSpace) -> AdvancedErrorReporting:
    live = config.find(AdvancedErrorReporting)
    assert live is not None
    return live


def test_aer_of_an_endpoint_is_2c_bytes() -> None:
    """S2.9."""
    assert AdvancedErrorReporting().length == 0x2C


def test_aer_first_values_are_the_specification_s(config: ConfigSpace) -> None:
    values = [config.read(offset, 4) for offset in range(0x104, 0x12C, 4)]
    assert values == [0, 0x0040_0000, 0x0046_2030, 0, 0xE000, 0xA0, 0, 0, 0, 0]


def test_aer_all_ones_changes_named_masks_only(config: ConfigSpace, aer: AdvancedErrorReporting) -> None:
    """S2.27: masks, severity and ECRC enables are writable, everything else is not."""
    config.access(0x100, 0x2C, b"\xff" * 0x2C)
    values = [config.read(offset, 4) for offset in range(0x104, 0x12C, 4)]
    assert values == [0, UNCORRECTABLE, UNCORRECTABLE, 0, CORRECTABLE, 0x1E0, 0, 0, 0, 0]


def test_aer_without_ecrc_has_no_enables(extended: Make) -> None:
    config = extended(AdvancedErrorReporting(ecrc=False))
    config.write(0x118, 4, 0xFFFF_FFFF)
    assert config.read(0x118, 4) == 0


def test_aer_status_cleared_by_its_own_bit_only(config: ConfigSpace, aer: AdvancedErrorReporting) -> None:
    """S2.27: write 1 to clear."""
    for error in (*UncorrectableError, *CorrectableError):
        aer.record(error)
    assert (config.read(0x104, 4), config.read(0x110, 4)) == (UNCORRECTABLE, CORRECTABLE)
    config.write(0x104, 4, UncorrectableError.ECRC)
    config.write(0x110, 2, CorrectableError.BAD_TLP)
    assert config.read(0x104, 4) == UNCORRECTABLE & ~UncorrectableError.ECRC
    assert config.read(0x110, 4) == CORRECTABLE & ~CorrectableError.BAD_TLP


def test_aer_first_error_keeps_pointer_and_header(config: ConfigSpace, aer: AdvancedErrorReporting) -> None:
    """6.2.4.2: the first error stays until its status bit is cleared."""
    assert aer.record(UncorrectableError.MALFORMED_TLP, HEADER)
    assert aer.record(UncorrectableError.ECRC, bytes(16))
    assert config.read(0x118, 4) & 0x1F == 18
    assert [config.read(offset, 4) for offset in range(0x11C, 0x12C, 4)] == [
        0x1011_1213,
        0x1415_1617,
        0x1819_1A1B,
        0x1C1D_1E1F,
    ]
    config.write(0x104, 4, UncorrectableError.MALFORMED_TLP)
    aer.record(UncorrectableError.POISONED_TLP, b"\xaa")
    assert (config.read(0x118, 4) & 0x1F, config.read(0x11C, 4)) == (12, 0xAA00_0000)


def test_aer_masked_error_sets_status_and_nothing_else(config: ConfigSpace, aer: AdvancedErrorReporting) -> None:
    config.write(0x108, 4, UncorrectableError.POISONED_TLP)
    assert not aer.record(UncorrectableError.POISONED_TLP, HEADER)
    assert not aer.record(CorrectableError.INTERNAL)
    assert aer.record(CorrectableError.RECEIVER)
    assert (config.read(0x104, 4), config.read(0x118, 4), config.read(0x11C, 4)) == (0x1000, 0xA0, 0)


def test_aer_reset_keeps_what_is_sticky(config: ConfigSpace, aer: AdvancedErrorReporting) -> None:
    """S2.30: sticky AER bits are kept."""
    config.write(0x108, 4, UncorrectableError.ECRC)
    config.write(0x10C, 4, UncorrectableError.ECRC)
    config.write(0x118, 4, 0x140)
    aer.record(UncorrectableError.MALFORMED_TLP, HEADER)
    aer.record(CorrectableError.RECEIVER)
    before = aer.snapshot()
    config.reset()
    assert aer.snapshot() == before


def test_aer_several_errors_at_once_refused(aer: AdvancedErrorReporting) -> None:
    with pytest.raises(LocalError, match="one error must be recorded at a time"):
        aer.record(UncorrectableError.ECRC | UncorrectableError.POISONED_TLP)


def test_aer_header_of_17_bytes_refused(aer: AdvancedErrorReporting) -> None:
    with pytest.raises(LocalError, match="must have at most 16 bytes, not 17"):
        aer.record(UncorrectableError.ECRC, bytes(17))
