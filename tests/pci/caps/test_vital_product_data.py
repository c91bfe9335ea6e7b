import errno
from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace
from vfuserver.pci.caps.vital_product_data import VitalProductData

Make = Callable[..., ConfigSpace]

ADDRESS, DATA, F = 0x42, 0x44, 0x8000
CONTENT = b"read-only!!!free"


@pytest.fixture
def config(make: Make) -> ConfigSpace:
    return make(VitalProductData(CONTENT, writable_from=12))


def fetched(config: ConfigSpace, address: int) -> bytes:
    config.write(ADDRESS, 2, address)
    assert config.read(ADDRESS, 2) == address | F
    return config.read(DATA, 4).to_bytes(4, "little")


def test_vpd_is_eight_bytes(config: ConfigSpace) -> None:
    """S2.9."""
    assert config.capabilities[0].length == 8


def test_vpd_read_fetches_and_sets_f(config: ConfigSpace) -> None:
    """S2.24: F=0 fetches four bytes, then sets F."""
    assert fetched(config, 0) == b"read"
    assert fetched(config, 9) == b"!!!f"


def test_vpd_write_stores_and_clears_f(config: ConfigSpace) -> None:
    """S2.24: F=1 stores the data, then clears F."""
    config.access(DATA, 4, b"used")
    config.write(ADDRESS, 2, F | 12)
    assert config.read(ADDRESS, 2) == 12
    assert fetched(config, 12) == b"used"


def test_vpd_lower_address_byte_alone_does_nothing(config: ConfigSpace) -> None:
    """S2.24: action only when the access covers the upper address byte."""
    config.write(ADDRESS, 1, 4)
    assert (config.read(ADDRESS, 2), config.read(DATA, 4)) == (4, 0)
    config.write(ADDRESS + 1, 1, 0)
    assert (config.read(ADDRESS, 2), config.access(DATA, 4, None)) == (4 | F, b"-onl")


def test_vpd_data_alone_does_nothing(config: ConfigSpace) -> None:
    config.write(ADDRESS, 2, 12)
    config.access(DATA, 4, b"used")
    assert config.read(ADDRESS, 2) == 12 | F
    assert fetched(config, 12) == b"free"


@pytest.mark.parametrize("address", [F | 0, F | 16, F | 0x7FFC, 13, 0x7FFC], ids=hex)
def test_vpd_failure_leaves_f_as_written(config: ConfigSpace, address: int) -> None:
    """S2.24: the guest times out."""
    config.write(ADDRESS, 2, address)
    assert config.read(ADDRESS, 2) == address
    assert fetched(config, 0) == b"read"


def test_vpd_store_survives_reset_and_belongs_to_one_function(make: Make, config: ConfigSpace) -> None:
    config.access(DATA, 4, b"used")
    config.write(ADDRESS, 2, F | 12)
    config.reset()
    assert (config.read(ADDRESS, 2), config.read(DATA, 4)) == (0, 0)
    assert fetched(config, 12) == b"used"
    assert fetched(make(VitalProductData(CONTENT)), 12) == b"free"


def test_vpd_calls_stand_in_for_the_bytes(make: Make) -> None:
    stored: list[tuple[int, bytes]] = []

    def load(address: int) -> bytes:
        if address:
            raise OSError(errno.EIO, "no such chip")
        return b"chip"

    config = make(VitalProductData(load=load, store=lambda address, data: stored.append((address, data))))
    assert fetched(config, 0) == b"chip"
    config.write(ADDRESS, 2, 4)
    assert config.read(ADDRESS, 2) == 4
    config.write(ADDRESS, 2, F | 0x100)
    assert (config.read(ADDRESS, 2), stored) == (0x100, [(0x100, b"chip")])


def test_vpd_content_of_half_a_dword_refused() -> None:
    with pytest.raises(DeclarationError, match="must be a multiple of 4, not 0x2"):
        VitalProductData(b"ab")
