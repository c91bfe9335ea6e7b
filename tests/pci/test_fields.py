import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci.fields import Field, compile_layout


def test_layout_bytes_are_little_endian() -> None:
    """S2.3: byte arrays in PCI order."""
    layout = compile_layout([Field("a", 0, 4, reset=0x0403_0201), Field("b", 6, 2, writable=0x0800)])
    assert layout.reset == bytes((1, 2, 3, 4, 0, 0, 0, 0))
    assert layout.writable == bytes((0, 0, 0, 0, 0, 0, 0, 8))


def test_layout_equal_rows_share_one_object() -> None:
    """S2.1: tables are shared by all devices."""
    assert compile_layout([Field("a", 0, 1)]) is compile_layout([Field("a", 0, 1)])


def test_layout_mutation_raises() -> None:
    """S2.1: tables are immutable."""
    layout = compile_layout([Field("a", 0, 1)])
    with pytest.raises(AttributeError):
        layout.reset = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        layout.writable[0] = 1  # type: ignore[index]


def test_layout_overlapping_fields_refused_naming_both() -> None:
    with pytest.raises(DeclarationError, match=r"not one \(0x0 to 0x2\) and two \(at 0x1\)"):
        compile_layout([Field("one", 0, 2), Field("two", 1, 2)])


def test_layout_name_used_twice_refused() -> None:
    with pytest.raises(DeclarationError, match="must be unique, not one twice"):
        compile_layout([Field("one", 0, 1), Field("one", 1, 1)])


def test_layout_unknown_name_lists_the_known() -> None:
    with pytest.raises(KeyError, match="there are one"):
        compile_layout([Field("one", 0, 1)])["two"]


def test_field_mask_wider_than_field_refused() -> None:
    with pytest.raises(DeclarationError, match="writable must have 8 bits, not 0x100"):
        Field("a", 0, 1, writable=0x100)


def test_field_bit_with_two_effects_refused() -> None:
    with pytest.raises(DeclarationError, match=r"must be writable or clear, not both \(0x2\)"):
        Field("a", 0, 1, writable=3, clear=2)


def test_field_without_bytes_refused() -> None:
    with pytest.raises(DeclarationError, match="not 0 bytes at 0"):
        Field("a", 0, 0)
