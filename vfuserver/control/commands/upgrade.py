"""upgrade: a new process, of the code that is on disk now, takes over from the one that is asked."""

from dataclasses import dataclass
from typing import Any

from vfuserver.control.command import ControlCommand
from vfuserver.control.succession import hand_over
from vfuserver.engine import Server
from vfuserver.errors import UsageError


@dataclass(frozen=True)
class Upgrade(ControlCommand, name="upgrade"):
    """Replaces the process, with everything that devices and connections are; clients notice a pause."""

    async def run(self, server: Server) -> dict[str, Any]:
        """The new process id, and the pause in milliseconds. UsageError: this server cannot be replaced at all.
        NotReplacedError: why the present one goes on."""
        if server.command is None:
            raise UsageError("this server cannot be replaced: it is not `vfuserver serve`")
        done = await hand_over(server, server.command)
        return {"pid": done.pid, "pause_ms": round(done.pause * 1000, 3)}
