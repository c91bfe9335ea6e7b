"""QEMU as a child process: started so that it cannot outlive us, its messages kept, ended for certain.

It knows neither guests nor topologies: only words, descriptors and a log.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

_PATIENCE = 5.0
_HEAD, _TAIL = 1000, 2500


def excerpt(text: str) -> str:
    """The text, or its first and last lines: QEMU gives its reason before it dumps registers."""
    if len(text) <= _HEAD + _TAIL:
        return text.rstrip()
    return f"{text[:_HEAD].rpartition(chr(10))[0]}\n[...]\n{text[-_TAIL:].partition(chr(10))[2]}".rstrip()


class QemuProcess:
    """One running QEMU. `log` is the file that takes what it prints."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, command: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> "QemuProcess":
        """Start `command`. The kernel kills it when this process dies, whatever it dies of."""
        setpriv = shutil.which("setpriv")
        guard = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *guard,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle, in order
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process id (for measurements)."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.returncode

    @property
    def messages(self) -> str:
        """Everything QEMU has printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return self._log.read_text(errors="replace")
        return ""

    async def ended(self) -> int:
        """Wait until it has ended; its exit code, negative for a signal."""
        return await self._process.wait()

    async def end(self) -> None:
        """End it if it runs: politely by SIGTERM, after a few seconds by SIGKILL."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
