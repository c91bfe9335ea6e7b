"""Servers in processes of their own, watched from outside through /proc."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from tests.engines import CHOSEN, POLLED
from tests.interop import raw_client as raw
from vfuserver.control import ControlClient, beside
from vfuserver.engine.choice import DEFAULT
from vfuserver.session.options import DEDICATED

PROGRAM = str(Path(sys.executable).parent / "vfuserver")
ENGINE = [] if CHOSEN == DEFAULT else ["--engine", CHOSEN]
"""What serves in every test here."""
POLL = [] if POLLED == "auto" else ["--poll", POLLED]
"""How it polls."""
MODELS = Path(__file__).parent / "models.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a thread of its own is refused is not run."""
    for item in items if POLLED == DEDICATED else ():
        if item.path.name == "test_supervised.py":
            item.add_marker(pytest.mark.skip(reason="--poll dedicated cannot be supervised"))


class Server:
    """A server process; `paths` are its sockets."""

    def __init__(self, folder: Path, log: IO[bytes], arguments: list[str], paths: list[str]) -> None:
        self.paths, self.path, self._log = paths, paths[0], folder / "log"
        self.process = subprocess.Popen(
            [PROGRAM, "serve", *ENGINE, *POLL, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        )

    def __enter__(self) -> Self:
        assert self.process.stdout
        ready = [self.process.stdout.readline().split() for _ in self.paths]
        assert [(words[0], words[-1]) for words in ready] == [("ready", path) for path in self.paths]
        with ControlClient(beside(Path(self.path))) as control:
            control.ask("inspect")  # what it still imports after its ready line has been read by now
        readings = [self.descriptors()]
        while len(readings) < 5:
            time.sleep(0.005)
            readings.append(self.descriptors())
        self.idle = min(readings)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self.process.stdout
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        assert code == 0, self.log()
        assert not [path for path in self.paths if os.path.exists(path)]
        assert not re.search("Traceback|never awaited|Sanitizer", self.log()), self.log()

    def log(self) -> str:
        """Everything on stderr so far."""
        return self._log.read_text()

    def descriptors(self) -> int:
        """How many the process has."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def at_rest(self) -> bool:
        """As many descriptors as before the first connection."""
        return self.descriptors() == self.idle

    def resident(self) -> int:
        """Bytes of memory, as the kernel counts them."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found, "the server is gone"
        return int(found[1]) * 1024

    def mappings(self) -> str:
        """What it has mapped."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()


def eventually(check: Callable[[], bool], seconds: float = 4.0) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def counted(fd: int) -> int:
    """What an eventfd has counted, without taking it."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("eventfd-count:"))


@contextlib.contextmanager
def two_devices(folder: Path, mappable: str = "no") -> Iterator[Server]:
    """Two testdevs in one process; the second one's BAR2 is not mappable, unless told otherwise."""
    paths = [str(folder / "first"), str(folder / "second")]
    config = folder / "devices.toml"
    config.write_text(
        f'[[device]]\ndevice = "testdev"\nsocket = "{paths[0]}"\n'
        f'[[device]]\ndevice = "testdev"\nsocket = "{paths[1]}"\nset = {{ mappable = "{mappable}" }}\n'
    )
    with (folder / "log").open("wb") as log, Server(folder, log, ["--config", str(config)], paths) as running:
        yield running


@contextlib.contextmanager
def one_device(folder: Path, *options: str, device: str = "testdev") -> Iterator[Server]:
    """A device, testdev unless told otherwise, served with options."""
    path = str(folder / "socket")
    arguments = [device, "--socket", path, *options]
    with (folder / "log").open("wb") as log, Server(folder, log, arguments, [path]) as running:
        yield running


def model(name: str) -> str:
    """A device of models.py as `serve` takes it."""
    return f"{MODELS}:{name}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's server."""
    with two_devices(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for a test that may end it."""
    with two_devices(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[raw.Client]:
    """A connection to the first device, just reset, with COMMAND 7."""
    with raw.Client(server.path) as connection:
        connection.reset()
        connection.write(raw.CONFIG, 4, 7, 2)
        yield connection


class Eventfd:
    """A counter that the server adds to."""

    def __init__(self, value: int = 0, flags: int = os.EFD_NONBLOCK | os.EFD_CLOEXEC) -> None:
        self.fd = os.eventfd(0, flags)
        if value:
            os.eventfd_write(self.fd, value)

    def fired(self) -> int:
        """How often since the last look, without waiting."""
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self.fd)
        return 0

    def fires(self) -> int:
        """How often, after waiting for the first."""
        select.select([self.fd], [], [], 3)
        return self.fired()


@pytest.fixture
def eventfds() -> Iterator[Callable[..., list[Eventfd]]]:
    """Makes eventfds that are closed at the end."""
    made: list[Eventfd] = []

    def make(count: int = 1) -> list[Eventfd]:
        made.extend(fresh := [Eventfd() for _ in range(count)])
        return fresh

    yield make
    for event in made:
        os.close(event.fd)


@pytest.fixture
def memory() -> Iterator[int]:
    """Guest memory of 1 MiB with a descriptor."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 1 << 20)
    yield fd
    os.close(fd)


def refused(expected: int) -> "pytest.RaisesExc[raw.RefusedError]":
    """An error reply with this errno."""
    return pytest.raises(raw.RefusedError, check=lambda error: error.errno == expected)


def closes_or_refuses(client: raw.Client, ident: int) -> bool:
    """An error reply to this ID, or the end of the connection."""
    try:
        client.reply(ident)
    except raw.RefusedError:
        return True
    except ConnectionError:
        return True
    return False


def capabilities(config: bytes) -> dict[int, int]:
    """Offsets of the capabilities by ID."""
    found, at = {}, config[0x34]
    while at:
        assert at % 4 == 0
        assert config[at] not in found
        found[config[at]] = at
        at = config[at + 1]
    return found
