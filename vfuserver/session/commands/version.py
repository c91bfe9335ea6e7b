"""VERSION: what both ends speak. The rules of the JSON are in `vfuserver.session.negotiation`."""

from vfuserver.errors import PeerError
from vfuserver.session.command import Answer, Command, Request, Survival
from vfuserver.session.connection import Connection
from vfuserver.session.negotiation import Capabilities, answer, parse_version_data, version_data
from vfuserver.session.peer import looks_like_qemu
from vfuserver.wire import U16, Layout, Rest

MAJOR, MINOR = 0, 0
"""QEMU proposes minor 0 and accepts nothing above it (field-notes C.2)."""


class Version(Command, number=1, name="VERSION"):
    """VFIO_USER_VERSION: the first message of a client; the reply is 0.0 and a subset of what it proposed.

    `data` is JSON with a terminating NUL, or absent; then the reply has none either. The reply carries the client's end
    of the twin socket, if both speak that.
    """

    request = Layout("major" / U16, "minor" / U16, "data" / Rest)
    reply = Layout("major" / U16, "minor" / U16, "data" / Rest)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """A twin socket is opened once."""
        return Survival.KEPT_ANEW

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Settles the connection's limits. PeerError (the connection closes): another major, or bad data."""
        major, minor = request.integers
        data = request.payload[cls.request.size :]
        if major != MAJOR:
            raise PeerError(f"VERSION: the major version must be {MAJOR}, not {major}.{minor}")
        proposed = parse_version_data(data)
        theirs = Capabilities.stated(proposed or {})
        told = answer(proposed or {}, connection.offer(theirs), len(data))
        qemu = looks_like_qemu(proposed or {})
        connection.agree(theirs, set(told), qemu=qemu)
        like = ", as QEMU does" if qemu else ""
        connection.log.info("client speaks %d.%d%s: %s", major, minor, like, theirs)
        reply = cls.reply.pack(MAJOR, MINOR) + (b"" if proposed is None else version_data(told))
        return (reply, [connection.twin.peer]) if connection.twin else reply
