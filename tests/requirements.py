"""Which tests prove which requirement: `make requirements`, or `python -m tests.requirements [--json] [--cases]`.

A test proves what its docstring cites (S2.22); so does a class or a module of tests for all that is in it. Tests are
read, not imported. What the numbers mean, and what those without tests wait for, is in `requirements.toml`.
With `--cases` pytest collects the tests that exchange messages, and those that cite a number are counted.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
WIRE: Final = ("tests/interop", "tests/session", "tests/client", "tests/contract/test_command")
"""Where tests exchange messages: by sockets, and in memory."""
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


def wire_cases() -> dict[str, int]:
    """How many cases (parameters counted) of each place in WIRE cite a number. RuntimeError: pytest cannot collect."""
    folders = sorted({place if (TESTS.parent / place).is_dir() else str(Path(place).parent) for place in WIRE})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pytest cannot collect {', '.join(folders)}:\n{done.stdout}")
    citing = {test for _, test in citations()}
    cases = [line for line in done.stdout.splitlines() if citing & set(_levels(line.partition("[")[0]))]
    return {place: sum(case.startswith(place) for case in cases) for place in WIRE}


def _levels(test: str) -> list[str]:
    """The module, the class and the function that a node id names."""
    parts = test.split("::")
    return ["::".join(parts[: n + 1]) for n in range(len(parts))]


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
    """Prints the table, and the count with --cases. 1: a line has neither tests nor a reason."""
    requirements = table()
    if "--json" in arguments:
        print(json.dumps({number: asdict(line) for number, line in requirements.items()}, indent=1))
    else:
        print("\n".join(text(requirements)))
    if "--cases" in arguments:
        cases = wire_cases()
        print(f"{sum(cases.values())} cases that exchange messages name what they prove: {cases}")
    return int(not all(line.accounted_for for line in requirements.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
