"""What a command is: one class statement with its number, its layouts and, if it is served here, its handler.

A file of `session/commands` declares one command. Parsing, building, printing, the checks that every command needs
(descriptors, length) and the contract tests come from that declaration alone. It must not know sessions: a handler
gets the `Connection` that it works on.
"""

import errno
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Final

from vfuserver.errors import CommandError, DeclarationError
from vfuserver.session.connection import Connection
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.registry import Registry
from vfuserver.vfio import Later
from vfuserver.wire import EMPTY, Layout

Data = bytes | bytearray | memoryview
Answer = bytes | bytearray | list[Data] | tuple[bytes, Sequence[int]] | Later
"""A reply's payload, or its pieces in order; with descriptors, which stay the handler's; or not yet (a Later ends with
one of these, or None). What is large is sent without a copy, so nobody may change it afterwards."""


class Direction(Enum):
    """Who sends the command."""

    TO_SERVER = "client -> server"
    TO_CLIENT = "server -> client"


class Survival(Enum):
    """What a command changes that outlives the process (`ports.Keeper`)."""

    NOTHING = "nothing, or the device's registers alone: they go back to what was kept last"
    AGAIN = "the connection: whoever goes on does the command once more"
    KEPT_ANEW = "what cannot be done twice: all is kept anew before it is answered"


class Request:
    """A command as it came: `payload` and the descriptors that came with it (closed unless taken)."""

    __slots__ = ("_layout", "fds", "payload")

    def __init__(self, layout: Layout, payload: bytes, fds: Descriptors) -> None:
        self._layout = layout
        self.payload = payload
        self.fds = fds

    @property
    def integers(self) -> tuple[int, ...]:
        """The leading integer fields, fast; the fixed part is known to be there."""
        return self._layout.unpack(self.payload)


class Command:
    """One command of the vfio-user specification. Subclasses say `class DmaMap(Command, number=2, name="DMA_MAP")`.

    `handle` makes a command served; without it the answer is ENOTSUP, except for those of the compiled core
    (`in_core`): their declarations are the specification and the oracle that the core is tested against.
    """

    number: ClassVar[int]
    name: ClassVar[str]
    direction: ClassVar[Direction] = Direction.TO_SERVER
    request: ClassVar[Layout] = EMPTY
    reply: ClassVar[Layout] = EMPTY
    max_fds: ClassVar[int] = 0
    """Descriptors that may come with the request."""
    in_core: ClassVar[bool] = False
    served: ClassVar[bool] = False

    def __init_subclass__(cls, *, number: int, name: str) -> None:
        super().__init_subclass__()
        if not 0 < number < 1 << 16:
            raise DeclarationError(f"{cls.__name__}.number must be 1 to 65535, not {number}")
        if not cls.__doc__:
            raise DeclarationError(f"{cls.__name__}.__doc__ must name its clause of the specification, not be empty")
        cls.number, cls.name = number, name
        cls.served = "handle" in cls.__dict__
        COMMANDS.add(cls)

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Does it and returns the reply. CommandError: an error reply. PeerError: the connection closes."""
        raise CommandError(errno.ENOTSUP, f"{cls.name} is not served")

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """What another process must know to go on after it, when this one is killed."""
        return Survival.NOTHING

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """Whether the connection knows it; if not, it is answered like a command that there is not."""
        return True

    @classmethod
    def check(cls, request: Request) -> None:
        """What holds for every command: no more descriptors than it takes, and its fixed part complete (S3.17)."""
        if len(request.fds) > cls.max_fds:
            raise CommandError(errno.EINVAL, f"{len(request.fds)} descriptors, must be at most {cls.max_fds}")
        if len(request.payload) < cls.request.size:
            raise CommandError(
                errno.EINVAL, f"a payload of {len(request.payload)} bytes, must be at least {cls.request.size}"
            )


COMMANDS: Final[Registry[int, Command]] = Registry(
    "command", "vfuserver.session.commands", lambda command: command.number
)
"""Every command of the specification, by number."""


def need_argsz(argsz: int, least: int) -> None:
    """CommandError(EINVAL) where a request's `argsz` is below what its command always needs (S1.10)."""
    if argsz < least:
        raise CommandError(errno.EINVAL, f"argsz {argsz}, must be at least {least}")
