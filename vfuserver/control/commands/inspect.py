"""inspect: the whole server as plain data."""

import logging
import os
from dataclasses import dataclass
from typing import Any, Final

import vfuserver
from vfuserver.control.command import ControlCommand
from vfuserver.engine import Server
from vfuserver.engine.serving import Serving
from vfuserver.iommu import CONTEXT

log = logging.getLogger("vfuserver.control")

LISTED: Final = 256
"""Entries of a list that clients make as long as they like: devices wait while it is made."""


@dataclass(frozen=True)
class Inspect(ControlCommand, name="inspect"):
    """The process, its devices with their clients, and the context: spaces, accesses, page sources (S4.26).

    A space says how many areas it has and lists the first LISTED of them; `areas` lists the others.
    """

    async def run(self, server: Server) -> dict[str, Any]:
        """Plain data, the same keys at any time."""
        return {
            "server": {"pid": os.getpid(), "version": vfuserver.__version__},
            "devices": [await _device(one) for one in server.served],
            **CONTEXT.dump(LISTED),
        }


async def _device(served: Serving) -> dict[str, Any]:
    """A model may be wrong about itself: that is part of the result."""
    try:
        return await served.dump()
    except Exception as error:
        log.exception("%s: cannot be inspected", served.name)
        return {"name": served.name, "error": repr(error)}
