"""The errors of the project: one tree, told apart by whose mistake it was.

    VfuserverError
    +-- DeclarationError   a device, register, command or capability is declared wrongly (raised at class creation)
    +-- CommandError       the client asked for something that cannot be done: an errno goes back, the session lives
    +-- DmaError           an access to the client's memory failed: the device model decides what that means
    +-- PeerError          the peer broke the stream: the session closes
    +-- UsageError         a person gave the command line or a configuration file something that cannot be done
    +-- LocalError         our own bug

Two channels, on purpose: the message is for the operator's log, the errno is for the wire. This module imports
nothing of the project; the compiled core raises these very classes.
"""

import errno as _errno
import os


class VfuserverError(Exception):
    """Base of every error that this project raises on purpose."""


class DeclarationError(VfuserverError, ValueError):
    """A declaration is impossible. The text says *must be ..., not ...* and names the class and the field."""


class _ErrnoError(VfuserverError):
    """An error that has a positive errno and a text that starts with the errno's own."""

    def __init__(self, errno: int, message: str = "") -> None:
        self.errno = errno
        self.message = message
        name = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{name}: {message or os.strerror(errno)}")


class CommandError(_ErrnoError):
    """The client's request cannot be served; `errno` (positive) is what the error reply carries."""


class DmaError(_ErrnoError):
    """Client memory could not be read or written.

    `errno` is EFAULT (not mapped, beyond a mapping, or its file was cut), EPERM (permission, or bus mastering is off),
    EIO (the client answered a DMA message with an error, or its file refuses), ENODEV (no client) or EDEADLK (message
    DMA before the command was answered).
    """


class PeerError(VfuserverError):
    """The peer broke the protocol in a way after which the stream means nothing: the connection is closed."""


class UsageError(VfuserverError):
    """A person asked for something impossible; the text says what to do next. The command line exits with 2."""


class LocalError(VfuserverError):
    """Our own bug, or a device model's: never the client's doing."""
