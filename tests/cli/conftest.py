"""The command line as a person meets it: processes, their output, their exit codes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Serve = Callable[..., AbstractContextManager["Serving"]]

COMMAND = (sys.executable, "-m", "vfuserver")
SECONDS = 30.0


class Serving:
    """A running `vfuserver serve`, of which `lines` have been read from stdout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def read_line(self) -> str:
        """The next line of stdout, waited for."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline().rstrip("\n")
        watchdog.cancel()
        self.lines.append(line)
        return line

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Sends a signal; exit code, the rest of stdout, stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the test's own, and none of the variables that change what the command line does."""
    for variable in [*os.environ]:
        if variable.startswith("VFUSERVER_") or variable == "NOTIFY_SOCKET":
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(environment: None) -> Run:
    """run("list", "--json") runs it to its end, in the test's folder; more keywords are subprocess.run's."""

    def runner(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
        options: dict[str, object] = {"capture_output": True, "text": True, "timeout": SECONDS, "check": False, **more}
        return subprocess.run([*COMMAND, *map(str, words)], **options)  # type: ignore[call-overload,no-any-return]

    return runner


@pytest.fixture
def serve(environment: None) -> Serve:
    """serve("edu", "--socket", path) starts it and waits for `count` ready lines; afterwards it must end with 0."""

    @contextmanager
    def starter(*words: str | Path, count: int = 1, **more: object) -> Iterator[Serving]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
        process = subprocess.Popen([*COMMAND, "serve", *map(str, words)], **options)  # type: ignore[call-overload]
        with process:
            serving = Serving(process)
            try:
                for _ in range(count):
                    assert serving.read_line().startswith("ready "), process.communicate(timeout=SECONDS)
                yield serving
                if process.poll() is None:
                    code, _, err = serving.end()
                    assert code == 0, err
            finally:
                if process.poll() is None:
                    process.kill()

    return starter
