"""A guest whose server is replaced again and again, by upgrades and by edited source, notices pauses and no more."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio

from vfuserver.guest import Machine, Plug

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module")]

COMMAND = (sys.executable, "-m", "vfuserver")
UPGRADES = 20
OURS = 50.0
"""Milliseconds of a pause that may be the servers'."""
SECONDS = 60.0
SOURCE = """
from vfuserver_devices.testdev import Testdev

class Mine(Testdev):
    '''testdev, by a file that can be edited.'''

    def on_load(self) -> None:
        self.log.warning("this is {version}")
"""


class Served:
    """`vfuserver serve --reload` in a process, its log in a file."""

    def __init__(self, folder: Path) -> None:
        self.source, self.socket, self.log = folder / "mine.py", folder / "mine.sock", folder / "log"
        self.write("version 1")
        words = [f"{self.source}:Mine", "--socket", self.socket, "--reload"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", *map(str, words)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready")

    def write(self, version: str) -> None:
        """Saves the device's source."""
        self.source.write_text(SOURCE.format(version=version))

    async def upgrade(self) -> None:
        """Has the server replaced."""
        words = [*COMMAND, "upgrade", str(self.socket)]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr + self.log.read_text()

    async def until_logged(self, text: str) -> None:
        """Waits for a line of the log."""
        async with asyncio.timeout(SECONDS):
            while text not in self.log.read_text():
                await asyncio.sleep(0.05)

    def end(self) -> int:
        """Ends it as whoever has started it would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode


@contextmanager
def served() -> Iterator[Served]:
    with TemporaryDirectory(prefix="vfu-") as folder:
        serving = Served(Path(folder))
        try:
            yield serving
        finally:
            code = serving.end()
        assert code == 0
        assert not serving.socket.exists()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving() -> AsyncIterator[tuple[Served, Machine]]:
    with served() as server:
        async with Machine("q35-shared", [Plug("testdev", server.socket)]) as guest:
            yield server, guest


async def place(guest: Machine) -> str:
    return await guest.check("cd /sys/bus/pci/devices; grep -l 0x7e57 */device | cut -d/ -f1")


async def test_guest_s_loop_survives_upgrades_and_edited_source(
    serving: tuple[Served, Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    server, guest = serving
    await guest.check(
        f"(pcitool testdev-loop {await place(guest)} /tmp/enough > /tmp/said 2>&1; echo ended $? >> /tmp/said) &"
    )
    for _ in range(UPGRADES):
        await server.upgrade()
    server.write("version 2")
    await server.until_logged("this is version 2")
    server.write("a mistake {")
    (server.source).write_text("class Mine(:")
    await server.until_logged("not replaced, the present process goes on")
    server.write("version 3")
    await server.until_logged("this is version 3")
    await guest.check("touch /tmp/enough; while ! grep -q ended /tmp/said; do sleep 0.1; done")
    said = await guest.check("cat /tmp/said")
    assert "ended 0" in said, said + server.log.read_text()
    log = server.log.read_text()
    pauses = [float(found) for found in re.findall(r"nobody served for ([\d.]+) ms", log)]
    assert len(pauses) == UPGRADES + 2
    with capsys.disabled():
        print(f"\n{said.splitlines()[0]}; {len(pauses)} pauses, the longest {max(pauses):.1f} ms")
    assert max(pauses) <= OURS
    wrong = [line for line in log.splitlines() if "ERROR" in line and "not replaced" not in line]
    assert not wrong, log


async def test_guest_s_kernel_has_nothing_to_say(serving: tuple[Served, Machine]) -> None:
    _, guest = serving
    assert not await guest.check("dmesg | grep -iE 'vfio|pcie.*error|timeout' || true")
    assert os.path.exists(serving[0].socket)
