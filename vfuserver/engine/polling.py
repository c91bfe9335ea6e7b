"""What a loop sleeps on, for a pump that polls instead, or sleeps in its place.

Neither loop documents its descriptor. Where it is not to be had nothing polls, and all else is as ever.
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


def libuv(loop: asyncio.AbstractEventLoop) -> tuple[str, object] | None:
    """The file that an uvloop's libuv is in, and a capsule of its uv_loop_t, lent; None for a loop of another kind."""
    if not hasattr(loop, "_get_backend_id"):
        return None
    from uvloop import loop as module

    uvloop: Any = module  # its stubs leave this out
    return uvloop.__file__, uvloop.libuv_get_loop_t_ptr(loop)
