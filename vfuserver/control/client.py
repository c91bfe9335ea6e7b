"""The asking end of a control socket, for commands of the command line. It blocks, and knows no command."""

import errno
import json
import socket
from pathlib import Path
from typing import Any, Final, Self

from vfuserver.errors import UsageError, VfuserverError

TIMEOUT: Final = 10.0
"""Seconds that one answer may take."""
MOST_ANSWER: Final = 64 << 20
"""Bytes of one answer."""


class ControlClient:
    """One connection: `with ControlClient(path) as control: control.ask("inspect")`."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        """Connects to the control socket `path`. UsageError: there is none, nobody listens, or we may not."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise UsageError(_why_not(path, error)) from error
        self._answers = self._socket.makefile("rb")

    def ask(self, command: str, **arguments: object) -> Any:
        """The result of a command. UsageError or VfuserverError: what the server says; also if it says nothing."""
        request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(request)
            line = self._answers.readline(MOST_ANSWER)
        except OSError as error:  # TimeoutError is one
            raise VfuserverError(f"{self.path}: no answer to {command}: {error}") from error
        if not line.endswith(b"\n"):
            raise VfuserverError(f"{self.path}: the server closed the connection without a whole answer to {command}")
        return self._result(line)

    def close(self) -> None:
        """Hangs up. Idempotent."""
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(self, line: bytes) -> Any:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
            raise VfuserverError(f"{self.path}: this is no control socket of vfuserver: it answers {line[:80]!r}")
        if "result" in answer:
            return answer["result"]
        kind = UsageError if answer.get("usage") else VfuserverError
        raise kind(f"{self.path}: {answer['error']}")


_REASONS: Final = {
    errno.ENOENT: "there is no such socket: is it the socket of a vfuserver that runs, and not one served by --fd?",
    errno.ECONNREFUSED: "nobody listens there any more: the server has ended without removing it",
    errno.EACCES: "only the user who runs the server, and root, may connect",
    errno.EPERM: "only the user who runs the server, and root, may connect",
}


def _why_not(path: Path, error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return f"cannot connect to {path}: {reason}"
