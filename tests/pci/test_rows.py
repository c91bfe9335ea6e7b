"""S2.1: what a declaration may look like, checked in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfuserver.pci

SOURCES = sorted(Path(vfuserver.pci.__file__).parent.rglob("*.py"))


def rows(source: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            yield node


def literals(row: ast.Call) -> list[int]:
    """Integer literals in a row, except the 0 of a bit that is not there."""
    values = (node.value for node in ast.walk(row) if isinstance(node, ast.Constant))
    return [value for value in values if type(value) is int and value]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_rows_any_module_no_integer_literals(source: Path) -> None:
    """S2.1: table rows are built from named constants."""
    assert [(row.lineno, literals(row)) for row in rows(source) if literals(row)] == []


def test_rows_are_found() -> None:
    assert sum(1 for source in SOURCES for _ in rows(source)) > 40
