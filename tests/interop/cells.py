"""Cells of the interop matrix: which of ours met which peer and what they did, and the plugin that notes how it went.

A test, a module of tests or a parameter is marked `cell(SERVER, "libvfio-user's sample null", "what they do")`; several
tests may make one cell. `-p tests.interop.cells --cells FILE` runs the marked tests alone and merges their results into
FILE. It must not know how the table looks (`matrix`).

A cell is green if all its tests passed, red if one failed or is expected to (its reason then has to name an issue or a
line of the peer's source), and has not been run if all were skipped. A run that skips does not replace a result.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest

from tests.engines import CHOSEN
from vfuserver.guest import ObtainError, find_qemu

LIBRARY: Final = "libvfio-user"
"""The other engine."""

LABEL, LABEL_V1 = (os.environ.get(f"LIBVFIO_USER_LABEL{suffix}", "") for suffix in ("", "_V1"))
"""What the tables call the version of LIBVFIO_USER_SO and LIBVFIO_USER_SAMPLES, and of those that end with _V1."""

SERVER, CLIENT, BOTH, SPACE = "server", "client", "both engines", "configuration space"
"""What of ours takes part. A server's cells are one for each engine, the others run once."""

MARK: Final = "cell"


class Result(StrEnum):
    """What a cell shows."""

    GREEN = "green"
    RED = "red"
    NOT_RUN = "not run"


Key = tuple[str, str, str, str]


@dataclass
class Cell:
    """One result: `version` is the peer's, `passed` counts tests, `reasons` are those of what did not pass."""

    ours: str
    peer: str
    what: str
    version: str = ""
    result: Result = Result.NOT_RUN
    passed: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """What a later run replaces."""
        return (self.ours, self.peer, self.what, self.version)

    def note(self, result: Result, reason: str = "") -> None:
        """Takes in how one of its tests went: red before green before not run."""
        order = [Result.NOT_RUN, Result.GREEN, Result.RED]
        if order.index(result) > order.index(self.result):
            self.result, self.reasons = result, []
        if reason and result is self.result and reason not in self.reasons:
            self.reasons.append(reason)
        self.passed += result is Result.GREEN


def cell(ours: str, peer: str, what: str, version: str | Callable[[], str] = "") -> pytest.MarkDecorator:
    """The mark. `version` is the peer's, or finds it out when cells are run (and only then: QEMU may be fetched)."""
    return pytest.mark.cell(ours=ours, peer=peer, what=what, version=version)


def qemu_version() -> str:
    """Of the QEMU that guests run in."""
    try:
        return f"QEMU {find_qemu().version}"
    except ObtainError:
        return "no QEMU"


def cells_of(marks: Iterable[pytest.Mark], engine: str) -> Iterator[Cell]:
    """The cells that these marks are about where `engine` serves."""
    for mark in marks:
        version = mark.kwargs["version"]
        cell = Cell(**{**mark.kwargs, "version": version() if callable(version) else version})
        if cell.ours == SERVER:
            cell.ours = f"{SERVER}, {engine}"
            if engine == LIBRARY and cell.version not in (LABEL, LABEL_V1):
                cell.version = f"{cell.version}, library {LABEL}"
        elif engine == LIBRARY:
            continue
        yield cell


def load(path: Path) -> list[Cell]:
    """The results of a file, none if there is none."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return [Cell(**{**row, "result": Result(row["result"])}) for row in rows]


def merged(old: Iterable[Cell], new: Iterable[Cell]) -> list[Cell]:
    """New results replace old ones. What was not run is kept only where nothing of the same cell ever was."""
    everything = {cell.key: cell for cell in old}
    for cell in new:
        before = everything.get(cell.key)
        if before is None or cell.result is not Result.NOT_RUN or before.result is Result.NOT_RUN:
            everything[cell.key] = cell
    ran = {cell.key[:3] for cell in everything.values() if cell.result is not Result.NOT_RUN}
    kept = [one for one in everything.values() if one.result is not Result.NOT_RUN or one.key[:3] not in ran]
    return sorted(kept, key=lambda cell: cell.key)


class Recorder:
    """Collects the results of one run of pytest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[Key, Cell] = {}
        self._of: dict[str, list[Cell]] = {}

    @pytest.hookimpl(trylast=True)  # whatever -k and -m leave out is none of our business
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Only what has a cell here."""
        others = []
        for item in items:
            cells = [self._cells.setdefault(one.key, one) for one in cells_of(item.iter_markers(MARK), CHOSEN)]
            if cells:
                self._of[item.nodeid] = cells
            else:
                others.append(item)
        items[:] = [item for item in items if item.nodeid in self._of]
        config.hook.pytest_deselected(items=others)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passes with its call; it fails, and is skipped, anywhere."""
        for one in self._of[report.nodeid]:
            if hasattr(report, "wasxfail"):
                one.note(Result.RED if report.skipped else Result.GREEN, _reason(report.wasxfail))
            elif report.failed:
                one.note(Result.RED, f"{report.nodeid.rpartition('/')[2]}: {_last_line(report)}")
            elif report.skipped:
                assert isinstance(report.longrepr, tuple)
                one.note(Result.NOT_RUN, _reason(report.longrepr[2]))
            elif report.when == "call":
                one.note(Result.GREEN)

    def pytest_sessionfinish(self) -> None:
        """Merges them into the file."""
        rows = [asdict(one) for one in merged(load(self._path), self._cells.values())]
        self._path.write_text(json.dumps(rows, indent=1) + "\n")


def _reason(text: str) -> str:
    return re.sub(r"^(Skipped|reason): ", "", text)


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).strip().splitlines()[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cells FILE`."""
    parser.addoption("--cells", type=Path, required=True, help="run cells of the interop matrix, merge results here")


def pytest_configure(config: pytest.Config) -> None:
    """Registers what notes the results."""
    config.pluginmanager.register(Recorder(config.option.cells))
