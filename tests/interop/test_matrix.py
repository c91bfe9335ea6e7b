"""The interop matrix: results become cells, cells become docs/interop.md, and none is forgotten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.interop.cells import Cell, Result, load, merged
from tests.interop.matrix import HEAD, document, unexplained

GREEN, RED, NOT_RUN = Result.GREEN, Result.RED, Result.NOT_RUN
RESULTS, DOCUMENT = ROOT / "docs" / "interop.json", ROOT / "docs" / "interop.md"

SMALL = """
import pytest
from tests.interop.cells import CLIENT, SERVER, cell

@cell(CLIENT, "peer", "greets", "1")
def test_one(): pass

@cell(CLIENT, "peer", "greets", "1")
@cell(SERVER, "peer", "parts", lambda: "2")
def test_other(): pass

@cell(CLIENT, "peer", "asks", "1")
def test_red(): pytest.xfail("its #7")

@cell(CLIENT, "peer", "answers", "1")
@pytest.mark.skip(reason="nobody is there")
def test_skipped(): pass

@cell(CLIENT, "peer", "fails", "1")
def test_failed(): assert 1 == 2

def test_without_cell(): assert False
"""


def run(results: Path, *words: str | Path, **more: str) -> list[Cell]:
    """What pytest writes with the plugin. No QEMU is looked for."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.interop.cells"]
    command += ["--cells", str(results), *map(str, words)]
    environment = {**os.environ, "VFUSERVER_QEMU": "/dev/null", "VFUSERVER_TEST_ENGINE": "vfuserver", **more}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    return load(results)


def test_results_of_tests_become_cells(tmp_path: Path) -> None:
    """In a pytest of its own, with our configuration."""
    (tmp_path / "test_small.py").write_text(SMALL)
    cells = run(tmp_path / "results", "-c", ROOT / "pyproject.toml", tmp_path)
    seen = {(one.ours, one.what): (one.result, one.passed, one.reasons) for one in cells}
    assert seen == {
        ("client", "greets"): (GREEN, 2, []),
        ("server, vfuserver", "parts"): (GREEN, 1, []),
        ("client", "asks"): (RED, 0, ["its #7"]),
        ("client", "answers"): (NOT_RUN, 0, ["nobody is there"]),
        ("client", "fails"): (RED, 0, ["test_small.py::test_failed: assert 1 == 2"]),
    }
    assert [one.what for one in unexplained(cells)] == ["fails"]


def test_tests_that_were_left_out_change_no_cell(tmp_path: Path) -> None:
    (tmp_path / "test_small.py").write_text(SMALL)
    cells = run(tmp_path / "results", "-c", ROOT / "pyproject.toml", "-k", "red", tmp_path)
    assert [one.what for one in cells] == ["asks"]


def test_cell_is_red_before_green_before_not_run() -> None:
    cell = Cell("ours", "peer", "what")
    cell.note(NOT_RUN, "nobody is there")
    cell.note(GREEN)
    assert (cell.result, cell.reasons) == (GREEN, [])
    cell.note(RED, "its #7")
    cell.note(NOT_RUN, "tired")
    cell.note(GREEN)
    assert (cell.result, cell.passed, cell.reasons) == (RED, 2, ["its #7"])


def test_result_is_replaced_by_another_of_the_same_version_alone() -> None:
    old = [Cell("ours", "peer", "what", "1", GREEN, 3), Cell("ours", "peer", "what", "2", GREEN, 3)]
    assert merged(old, [Cell("ours", "peer", "what", "2", RED)]) == [old[0], Cell("ours", "peer", "what", "2", RED)]


def test_what_was_not_run_replaces_no_result_and_gives_way_to_any() -> None:
    ran, idle = Cell("ours", "peer", "what", "1", GREEN, 3), Cell("ours", "peer", "what", "")
    assert merged([ran], [idle, Cell("ours", "peer", "what", "1")]) == [ran]
    assert merged([idle], [ran]) == [ran]
    assert merged([], [idle]) == [idle]


def test_table_has_a_row_for_each_version_and_a_column_for_what_they_do() -> None:
    cells = [
        Cell("client", "peer", "greets", "1", GREEN, 2),
        Cell("client", "peer", "greets", "2", RED, 1, ["its #7"]),
        Cell("client", "peer", "asks", "2", RED, 0, ["its #7"]),
        Cell("server", "peer", "asks", "", NOT_RUN, 0, ["nobody", "is there"]),
    ]
    expected = """\
## peer

| ours | version | greets | asks |
| --- | --- | --- | --- |
| client | 1 | green (2) |  |
| client | 2 | red (1) [1] | red [1] |
| server | - |  | not run [2] |

1. its #7
2. nobody; is there
"""
    assert document(cells) == f"{HEAD}\n{expected}"


def test_document_is_made_of_the_results() -> None:
    assert DOCUMENT.read_text() == document(load(RESULTS))


def test_everything_red_is_explained() -> None:
    """Issue 7: by an issue of the peer, or a line of its source."""
    assert unexplained(load(RESULTS)) == []


@pytest.mark.parametrize("engine", ["vfuserver", "libvfio-user"])
def test_document_has_every_cell_and_no_other(tmp_path: Path, engine: str) -> None:
    """A second or two: pytest collects every test of the files that know of cells."""
    files = [path for path in Path(__file__).parent.rglob("test_*.py") if "tests.interop.cells" in path.read_text()]
    cells = run(tmp_path / "results", "--collect-only", *files, VFUSERVER_TEST_ENGINE=engine)
    collected = {cell.key[:3] for cell in cells}
    documented = {cell.key[:3] for cell in load(RESULTS)}
    assert collected
    assert collected <= documented
    if engine == "vfuserver":
        assert {key for key in documented if not key[0].endswith("libvfio-user")} == collected
