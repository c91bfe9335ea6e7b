"""What a loop sleeps on: the descriptor that tells a pump, which polls instead, that the loop has something to do.

Neither loop documents it. Where it is not to be had nothing polls, and all else is as ever.
"""

import asyncio
from typing import Any

NONE = -1


def loop_fd(loop: asyncio.AbstractEventLoop) -> int:
    """The epoll descriptor of an uvloop or an asyncio loop, lent; NONE if it is of another kind."""
    of_uvloop: Any = getattr(loop, "_get_backend_id", None)
    if of_uvloop is not None:
        return int(of_uvloop())
    selector: Any = getattr(loop, "_selector", None)
    return int(selector.fileno()) if hasattr(selector, "fileno") else NONE
