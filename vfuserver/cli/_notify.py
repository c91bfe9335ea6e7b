"""Tells systemd how far the service is: sd_notify(3), over the datagram socket that $NOTIFY_SOCKET names.

Without that variable nobody asked, and nothing happens. It must not know what is served.
"""

import logging
import os
import socket

log = logging.getLogger("vfuserver.cli")


def notify(state: str) -> None:
    """Sends `state` (READY=1, STOPPING=1). A name that starts with @ is abstract. A failure is logged, not raised."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        log.warning("cannot tell %s to $NOTIFY_SOCKET %s: %s", state, address, error.strerror)
