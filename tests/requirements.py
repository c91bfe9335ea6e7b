"""Which tests prove which requirement: `make requirements`, or `python -m tests.requirements [--json]`.

A test proves what its docstring cites (S2.22); so does a class or a module of tests for all that is in it. Tests are
read, not imported. What the numbers mean, and what those without tests wait for, is in `requirements.toml`.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
CITED: Final = re.compile(r"\bS\d\.\d+\b")


@dataclass
class Requirement:
    """One line: `tests` are pytest's node ids, `waits` what it, or the rest of it, waits for."""

    title: str
    waits: str = ""
    tests: list[str] = field(default_factory=list)

    @property
    def accounted_for(self) -> bool:
        """Proved, or known to wait."""
        return bool(self.tests or self.waits)


def table() -> dict[str, Requirement]:
    """Every requirement by number, in order. KeyError: a test cites one that is not in the file."""
    listed = tomllib.loads((TESTS / "requirements.toml").read_text())
    found = {f"{seed}.{line}": Requirement(**said) for seed, lines in listed.items() for line, said in lines.items()}
    for number, test in citations():
        if number not in found:
            raise KeyError(f"{test} cites {number}, must be a number of tests/requirements.toml")
        found[number].tests.append(test)
    return found


def citations() -> Iterator[tuple[str, str]]:
    """(number, node id), once for each number that a docstring cites."""
    for path in sorted(TESTS.rglob("test_*.py")):
        yield from _cited(ast.parse(path.read_text()), str(path.relative_to(TESTS.parent)))


def _cited(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    for number in dict.fromkeys(CITED.findall(ast.get_docstring(node) or "")):
        yield number, name
    if isinstance(node, ast.Module | ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _is_test(inner.name):
                yield from _cited(inner, f"{name}::{inner.name}")


def _is_test(name: str) -> bool:
    return name.startswith(("test_", "Test"))


def text(requirements: dict[str, Requirement]) -> Iterator[str]:
    """The table as lines."""
    for number, line in requirements.items():
        yield f"{number:<6} {line.title}"
        yield from (f"         {test}" for test in line.tests)
        if line.waits:
            yield f"         {'the rest waits' if line.tests else 'waits'} for: {line.waits}"
        elif not line.tests:
            yield "         NOT PROVED"
    proved = sum(bool(line.tests) for line in requirements.values())
    waiting = sum(not line.tests and line.accounted_for for line in requirements.values())
    yield f"{len(requirements)} requirements: {proved} with tests, {waiting} wait"


def main(arguments: list[str]) -> int:
    """Prints the table. 1: a line has neither tests nor a reason."""
    requirements = table()
    if "--json" in arguments:
        print(json.dumps({number: asdict(line) for number, line in requirements.items()}, indent=1))
    else:
        print("\n".join(text(requirements)))
    return int(not all(line.accounted_for for line in requirements.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
