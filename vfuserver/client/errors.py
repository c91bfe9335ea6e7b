"""What can go wrong between a client and its server besides an error reply (that is a CommandError)."""

from vfuserver.errors import PeerError


class DisconnectedError(PeerError, ConnectionError):
    """The connection has ended; the text says which end did it and why."""


class ReplyTimeoutError(PeerError, TimeoutError):
    """The server did not answer a command in time. The connection goes on; a late reply is dropped."""
