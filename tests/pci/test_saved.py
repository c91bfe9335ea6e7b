"""Configuration space as data: whatever a guest and the device have made of it can be set again, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from tests.pci.one_of_each import OneOfEach
from vfuserver import PciDevice, UncorrectableError
from vfuserver.pci.caps.vital_product_data import VitalProductData

WRITES = st.lists(st.tuples(st.integers(0, 0xFFF), st.binary(min_size=1, max_size=8)), max_size=40)


@given(WRITES)
def test_whatever_a_guest_writes_can_be_restored(writes: list[tuple[int, bytes]]) -> None:
    """S2.31: with one of each capability: what changes is never taken for what must not, enables included."""
    device, other = OneOfEach(), OneOfEach()
    for at, data in writes:
        count = min(len(data), device.config.size - at)
        device.config.access(at, count, data[:count])
    device.report_error(UncorrectableError.POISONED_TLP, bytes(range(16)))
    device.interrupts.raise_(0)
    image, stores = device.config.image, device.config.saved()
    assert other.config.unlike(image, stores) == []
    other.config.restore(image, stores)
    assert (other.config.image, other.config.saved()) == (image, stores)
    assert other.gate.word & 7 == device.gate.word & 7


@given(st.integers(0, 0xFFF), st.integers(0, 7))
def test_read_only_bit_that_differs_is_told_by_register(at: int, bit: int) -> None:
    """S2.31: every bit of the space is either of those that change or refused."""
    device: PciDevice = OneOfEach()
    image = bytearray(device.config.image)
    image[at] ^= 1 << bit
    told = device.config.unlike(bytes(image), device.config.saved())
    constant = not device.config.owner(at) or device.config._assembly.constant[at] >> bit & 1
    assert bool(told) == bool(constant)
    if told:
        assert f"{at:#x}" in told[0]


def test_image_of_another_size_or_store_is_told() -> None:
    """S2.31."""
    config = OneOfEach().config
    assert config.unlike(bytes(256), {}) == ["configuration space must have 4096 bytes, not 256"]
    vpd = config.find(VitalProductData)
    assert vpd is not None
    store = bytes(vpd.data)
    for saved, why in ((b"", "must have 16 bytes, not 0"), (b"\0" + store[1:], "must begin with the same 12 bytes")):
        assert config.unlike(config.image, {vpd.start: saved}) == [f"VitalProductData {why}"]
    told = config.unlike(config.image, {vpd.start: store, 1: b"x", 0: b"y"})
    assert told == ["there is no capability at 0x1", "Header must have no bytes of its own, not 1"]
