"""S2.3: nothing here depends on the byte order of the machine, checked in the source; lspci proves which bytes come."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfuserver.pci
import vfuserver.registers

SOURCES = sorted(
    path for package in (vfuserver.pci, vfuserver.registers) for path in Path(package.__path__[0]).rglob("*.py")
)
CONVERSIONS = {"to_bytes": 1, "from_bytes": 1}
"""Methods of int, and which argument is the byte order."""
STRUCTS = {"Struct", "pack", "pack_into", "unpack", "unpack_from", "iter_unpack", "calcsize"}
NATIVE = {"byteorder", "cast", "frombuffer"}
"""Attributes whose use would mean words as the machine has them."""
HEADER_LOG = "advanced_error_reporting.py"
"""The log shows a packet's bytes as they were sent, the highest first (PCIe 5.0, 7.8.4.8)."""


def wrong(source: str, also: str = "") -> Iterator[str]:
    """Expressions of a module that convert in another order than "little", or `also`, or in the machine's own."""
    for node in ast.walk(ast.parse(source)):
        native = isinstance(node, ast.Attribute) and node.attr in NATIVE
        if native or (isinstance(node, ast.Call) and not all(_said(node, also))):
            yield ast.unparse(node)


def _said(call: ast.Call, also: str) -> Iterator[bool]:
    """Whether the order is said where there is one."""
    if not isinstance(call.func, ast.Attribute):
        return
    words = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    if call.func.attr in CONVERSIONS:
        place = CONVERSIONS[call.func.attr]
        yield len(words) > place and words[place] in {"little", also}
    elif call.func.attr in STRUCTS and isinstance(call.func.value, ast.Name) and call.func.value.id == "struct":
        yield bool(words) and str(words[0]).startswith("<")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_conversions_name_little_endian(source: Path) -> None:
    """S2.3."""
    assert list(wrong(source.read_text(), "big" if source.name == HEADER_LOG else "")) == []


@pytest.mark.parametrize(
    "source",
    [
        "value.to_bytes(4)",
        "int.from_bytes(data, 'big')",
        "int.from_bytes(data, sys.byteorder)",
        "struct.Struct('=H')",
        "struct.pack('I', value)",
        "memoryview(data).cast('I')",
    ],
)
def test_other_conversions_are_found(source: str) -> None:
    assert list(wrong(source))
