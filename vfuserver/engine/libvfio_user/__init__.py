"""The second engine: a Backend served by libvfio-user, the reference implementation, where that library is installed.

Its public API only, through cffi in ABI mode. One device has one context. Nothing here is imported unless the engine
is asked for; what the library cannot do is refused before anything listens (`refusals`), or stands, with its reason,
in docs/libvfio-user.md.
"""

from vfuserver.engine.libvfio_user.refusals import check
from vfuserver.engine.libvfio_user.served import Served

__all__ = ["Served", "check"]
