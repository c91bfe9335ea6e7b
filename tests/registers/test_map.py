"""Declarations that cannot be are refused when the class exists, naming class and field."""

from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.registers import RO, RW, RegisterMap


def compiled(declare: Callable[[RegisterMap], object], size: int = 0x100) -> RegisterMap:
    registers = RegisterMap(size, label="BAR0")
    declare(registers)
    registers.compile("Edu.mmio")
    return registers


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda m: (m.ro(0), m.ro(2, width=2)), "must begin at 0x4 or later, not overlap BAR0_0x0"),
        (lambda m: m.ro(2), "offset must be a multiple of 4, not 0x2"),
        (lambda m: m.ro(0x100), "must end within 0x100 bytes, not at 0x104"),
        (lambda m: m.ro(-4), "offset must be 0 or more, not -4"),
        (lambda m: m.ro(0, width=3), "width must be 1, 2, 4 or 8 bytes, not 3"),
        (lambda m: m.ro(0, width=1, reset=256), "reset must fit in 1 bytes, not be 0x100"),
        (lambda m: m.array(0, RO, count=2, reset=b"123"), "reset must be 8 bytes long, not 3"),
        (lambda m: m.array(0, RO, count=0), "count must be 1 or more, not 0"),
        (lambda m: m.rw(0, split="lo-hi"), "split register must be one of 8 bytes"),
        (lambda m: m.rw(0, width=8, split="both"), "split must be 'lo-hi', 'hi-lo' or None, not 'both'"),
        (lambda m: m.memory(0, 16, reset={12: b"12345"}), "reset must lie in 0x10 bytes"),
        (lambda m: m.rw(0, width=1, bits=0x100), "must fit in 1 bytes"),
    ],
)
def test_impossible_declaration_is_refused(declare: Callable[[RegisterMap], object], says: str) -> None:
    with pytest.raises(DeclarationError, match=r"^Edu\.mmio\.") as raised:
        compiled(declare)
    assert says in str(raised.value)


def test_declaration_after_the_class_body_is_refused() -> None:
    registers = compiled(lambda m: m.ro(0))
    with pytest.raises(DeclarationError, match="BAR0: registers must be declared in the class body"):
        registers.ro(4)


def test_second_hook_is_refused() -> None:
    register = RegisterMap(16).rw(0)
    register.on_read(lambda self: 1)
    with pytest.raises(DeclarationError, match="must have one read_hook"):
        register.on_read(lambda self: 2)


def test_register_that_lost_its_name_to_its_hook_is_refused() -> None:
    registers = RegisterMap(16)
    registers.rw(0).on_write(lambda self, value: value)
    with pytest.raises(DeclarationError, match="must keep a name of its own"):
        registers.compile("Edu.mmio")


def test_hook_with_wrong_parameters_is_refused() -> None:
    def hook(self: object) -> None:
        """Takes no value."""

    registers = RegisterMap(16)
    registers.register(0, RW, name="a").on_write(hook)  # type: ignore[type-var]
    with pytest.raises(DeclarationError, match=r"on_write hook must take \(self, value\), not 1 parameters \(hook\)"):
        registers.compile("Edu.mmio")


def test_map_describes_itself_as_data() -> None:
    registers = compiled(lambda m: (m.rw(8, width=8, bits=0xFF, reset=7, doc="what"), m.memory(0x80, 0x80)))
    first, second = registers.describe()
    assert first["name"] == "BAR0_0x8"
    assert (first["policy"], first["reset"], first["doc"], first["hooks"]) == ("RW(0xff)", 7, "what", [])
    assert (second["policy"], second["count"]) == ("memory", 0x80)


def test_offset_finds_its_declaration() -> None:
    registers = compiled(lambda m: (m.array(0, RO, count=4), m.ro(0x20)))
    assert registers.at(0xC) is registers.rows[0]
    assert registers.at(0x10) is None
    assert registers.at(0x23) is registers.rows[1]
