"""`serve --reload`: whenever the source of a device is saved, a new process with it takes over (control.succession).

What is watched are the files that were imported from where the device's class is, its folder's and what lies below. It
must not know how a process is replaced.
"""

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from vfuserver.control.succession import hand_over
from vfuserver.device import Model
from vfuserver.engine import Server
from vfuserver.errors import UsageError, VfuserverError

log = logging.getLogger("vfuserver.reload")

SETTLED: Final = 100
"""Milliseconds without a further change, after which a file counts as saved."""
WAITED: Final = 200
"""Milliseconds until what was saved before anybody watched is looked at."""
CLOCK: Final = 0.02
"""Seconds by which a file's time may be behind the clock's."""


def require_watcher() -> None:
    """UsageError unless files can be watched."""
    try:
        import watchfiles  # noqa: F401 - whether it is there
    except ImportError:
        raise UsageError("--reload needs the package watchfiles: pip install 'vfuserver[reload]'") from None


def sources(models: Iterable[Model]) -> set[Path]:
    """The files that these classes, and what was imported beside them, come from."""
    homes = {Path(file).resolve().parent for model in models if (file := _file(model.__module__))}
    imported = {Path(file).resolve() for name in tuple(sys.modules) if (file := _file(name))}
    return {file for file in imported if any(home in file.parents for home in homes)}


async def reload_on_change(server: Server, files: Iterable[Path], since: float) -> None:
    """Has the server replaced when one of the files is saved, again and again until that has worked; then it stops.

    `since`: the time (of the epoch, in seconds) before which nothing of them was imported.
    """
    from watchfiles import awatch

    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    watched = {str(file) for file in files}
    log.info("watching %s", ", ".join(sorted(watched)))
    folders = {str(Path(file).parent) for file in watched}
    changes = awatch(
        *folders,
        watch_filter=lambda _, file: file in watched,
        step=SETTLED,
        rust_timeout=WAITED,
        yield_on_timeout=True,
        recursive=False,
    )
    changed: set[str] = set()
    watching = False
    async for found in changes:
        changed |= {file for _, file in found}
        if not watching:  # they are, from the first turn on: what was saved before that is looked for now
            changed |= {file for file in watched if _saved_after(file, since)}
            watching = True
        if not changed:
            continue
        log.info("%s changed", ", ".join(sorted(changed)))
        if await _replaced(server):
            server.stop()
            return
        changed.clear()


async def _replaced(server: Server) -> bool:
    try:
        await hand_over(server, server.command or ())
    except UsageError as error:
        log.warning("%s", error)
    except (VfuserverError, OSError) as error:  # also a device that cannot stand still: the next save tries again
        log.error("%s", error)
    return server.left


def _saved_after(file: str, since: float) -> bool:
    try:
        return os.stat(file).st_mtime > since - CLOCK
    except FileNotFoundError:  # an editor is about to put another one in its place
        return False


def _file(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)
