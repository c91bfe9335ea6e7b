"""Whether the library has opened a twin socket for a client: it does not say.

It is found among the descriptors that negotiation has left: a nameless UNIX socket that would outlive an exec, as no
descriptor of Python's does. Where two devices negotiate at one moment there may be two of them: then none is believed
to be there, and DMA messages are refused as without. It must not know contexts.
"""

import fcntl
import os
import socket
import stat


def open_descriptors() -> set[int]:
    """Those of this process, at this moment."""
    return {int(name) for name in os.listdir("/proc/self/fd")}


def twin_among(new: set[int]) -> int:
    """The twin socket's descriptor, which stays the library's and is closed on exec from now on; -1: there is none."""
    found = [fd for fd in new if _is_twin(fd)]
    if len(found) != 1:
        return -1
    os.set_inheritable(found[0], False)
    return found[0]


def _is_twin(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode) or fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
            return False
        with socket.socket(fileno=os.dup(fd)) as one:
            return one.family == socket.AF_UNIX and not one.getsockname() and not one.getpeername()
    except OSError:  # closed meanwhile, or not connected
        return False
