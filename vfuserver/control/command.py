"""What a command of the control socket is: one dataclass, whose fields are its arguments, and what it does.

A file of `control/commands` declares one. It must not know sockets: a command gets the `Server` that it is about.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Final, Self

from vfuserver.engine import Server
from vfuserver.errors import UsageError
from vfuserver.session.registry import Registry


@dataclass(frozen=True)
class ControlCommand(ABC):
    """One command: `@dataclass(frozen=True) class Areas(ControlCommand, name="areas"): space: int`.

    Arguments are plain types (int, bool, str). While `run` does not await, no device is served: what takes long is
    done in pieces, each a request or between awaits.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.name = name
        CONTROL_COMMANDS.add(cls)

    @abstractmethod
    async def run(self, server: Server) -> Any:
        """Does it; the result, plain data. VfuserverError: why not."""

    @classmethod
    def made(cls, arguments: Mapping[str, Any]) -> Self:
        """The command with these arguments. UsageError: one is unknown, missing, or of another type."""
        known = {field.name: field for field in fields(cls)}
        for name, value in arguments.items():
            if name not in known:
                raise UsageError(f"{cls.name} has no argument {name}; it has {', '.join(known) or 'none'}")
            kind = known[name].type
            if type(value) is not kind:
                raise UsageError(f"{cls.name}: {name} must be of type {getattr(kind, '__name__', kind)}, not {value!r}")
        missing = [name for name, one in known.items() if one.default is MISSING and name not in arguments]
        if missing:
            raise UsageError(f"{cls.name}: the arguments {', '.join(missing)} must be there")
        return cls(**arguments)


def command_of(request: object) -> ControlCommand:
    """What a request asks for. UsageError: it is no request, there is no such command, or its arguments are wrong."""
    if not isinstance(request, dict):
        raise UsageError(f"a request must be a JSON object, not {request!r:.80}")
    name, arguments = request.get("command"), request.get("arguments", {})
    command = CONTROL_COMMANDS.get(name) if isinstance(name, str) else None
    if command is None:
        names = ", ".join(one.name for one in CONTROL_COMMANDS.all())
        raise UsageError(f"command must be one of {names}, not {name!r:.80}")
    if not isinstance(arguments, dict):
        raise UsageError(f"{command.name}: arguments must be a JSON object, not {arguments!r:.80}")
    return command.made(arguments)


CONTROL_COMMANDS: Final[Registry[str, ControlCommand]] = Registry(
    "control command", "vfuserver.control.commands", lambda command: command.name
)
"""Every command of the control socket, by name."""
