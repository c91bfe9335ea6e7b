"""The errors of guests: what could not be obtained, what did not boot, which command failed.

They hang under the project's one tree. This module knows no QEMU and starts nothing.
"""

from vfuserver.errors import UsageError, VfuserverError


class GuestError(VfuserverError):
    """Base of everything that goes wrong with a guest; the text carries the evidence (console, QEMU's messages)."""


class ObtainError(GuestError, UsageError):
    """Something that a guest needs is neither here nor can be fetched; the text says what to install or to set."""


class ToolError(GuestError):
    """A tool that was started for us (apt-get, dpkg-deb, cc, make) failed; the text is what it said."""


class BootError(GuestError):
    """QEMU did not start, or the guest did not come up in time."""


class ChannelError(GuestError):
    """The guest stopped answering on its command channel."""


class CommandFailed(GuestError):  # noqa: N818 - the name says what happened, as in subprocess
    """A command in the guest ended with a code other than 0; `stdout` and `returncode` are its own."""

    def __init__(self, command: str, returncode: int, stdout: bytes) -> None:
        self.command = command
        self.returncode = returncode
        self.stdout = stdout
        text = stdout.decode(errors="replace").rstrip()
        super().__init__(f"in the guest: {command!r} ended with {returncode}\n{text}")
