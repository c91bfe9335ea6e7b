"""The twin socket of a connection: a stream of its own for the server's commands and the client's replies to them.

It exists if the client proposed it in VERSION, the options allow it, and whoever runs the session can open a socket.
From then on nothing that we originate goes over the main socket, so a command of the client and one of ours never meet
there, and ours need not wait until a held command is answered.

What does not belong on a stream is refused there: a command of the client on this one gets EINVAL; a reply that comes
over the main one fails its transfer (`Outgoing.misplaced`). It must not know sockets.
"""

import errno

from vfuserver._core import Stream
from vfuserver.errors import CommandError
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.log import ConnectionLog
from vfuserver.session.outgoing import Outgoing
from vfuserver.session.ports import OpenLane

FD_INDEX = 0
"""Where in the descriptors of the VERSION reply the client's end is."""


class Twin:
    """The second stream of one connection, from VERSION until the connection closes."""

    def __init__(self, open_lane: OpenLane, outgoing: Outgoing, log: ConnectionLog) -> None:
        """OSError: there is no second socket to be had."""
        self.stream = Stream(self._refuse, self._reply)
        self.stream.negotiated = True
        self._outgoing = outgoing
        self._log = log
        self.peer, flush = open_lane(self.stream)
        """The client's end, for the VERSION reply; not ours to close."""
        outgoing.move(self.stream, flush)

    def _refuse(self, number: int, message_id: int, flags: int, payload: bytes, fds: list[int]) -> bytes:
        with Descriptors(fds):
            text = f"command {number} came on the twin socket, must come on the main one"
            self._log.warning("%s", text)
            raise CommandError(errno.EINVAL, text)

    def _reply(self, number: int, message_id: int, error: int, payload: bytes, fds: list[int]) -> None:
        with Descriptors(fds):
            self._outgoing.take_reply(number, message_id, error, payload)
