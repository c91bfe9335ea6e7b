"""Where documents are executed: a folder of the test's own, with the project's commands on PATH."""

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that the reader is told to have."""
    for variable in [*os.environ]:
        if variable.startswith("VFUSERVER_") and variable != "VFUSERVER_CACHE":
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path
