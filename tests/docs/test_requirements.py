"""`make requirements`: what tests cite exists, and every line is proved or known to wait."""

import json
import subprocess
import sys

from tests import requirements
from tests.docs.blocks import ROOT


def test_every_requirement_has_tests_or_waits_for_something() -> None:
    assert [number for number, line in requirements.table().items() if not line.accounted_for] == []


def test_every_number_is_there_once() -> None:
    lines = {"S0": 16, "S1": 16, "S2": 33, "S3": 29, "S4": 28}
    assert list(requirements.table()) == [f"{seed}.{i + 1}" for seed, count in lines.items() for i in range(count)]


def test_tests_and_modules_that_cite_are_listed() -> None:
    tests = requirements.table()["S2.22"].tests
    assert "tests/session/test_set_irqs.py" in tests
    assert "tests/session/test_set_irqs.py::test_shapes_are_every_pair_of_data_and_action" in tests


def test_at_least_200_cases_of_messages_name_what_they_prove() -> None:
    """Issue 3; every place has some."""
    cases = requirements.wire_cases()
    assert sum(cases.values()) >= 200
    assert all(cases.values())


def test_the_command_prints_the_table_as_text_and_as_json() -> None:
    def run(*options: str) -> str:
        command = [sys.executable, "-m", "tests.requirements", *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    table = requirements.table()
    said = json.loads(run("--json"))
    assert {number: line["tests"] for number, line in said.items()} == {n: line.tests for n, line in table.items()}
    lines = run().splitlines()
    assert len(lines) > len(table)
    assert "         waits for: passthrough" in lines
