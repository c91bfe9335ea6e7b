"""libvfio-user's own log, into Python's: under `vfuserver.libvfio_user.DEVICE`, as much of it as a connection's log
writes. It must not know what the lines are about.
"""

import logging
from typing import Any, Final

from vfuserver.engine.libvfio_user.context import Context
from vfuserver.session.log import ConnectionLog

LOG_INFO, LOG_DEBUG = 6, 7
"""syslog(3)."""
LEVELS: Final = (
    *(logging.CRITICAL, logging.CRITICAL, logging.ERROR),
    logging.WARNING,  # LOG_ERR, which is what a client's mistakes are logged at
    *(logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG),
)
"""By syslog(3)'s level."""


def log_into(context: Context, log: ConnectionLog) -> None:
    """Has a context's lines written to `log`."""

    def line(level: int, text: Any) -> None:
        said = context.ffi.string(text).decode(errors="replace").rstrip()
        log.provoked(LEVELS[min(max(level, 0), LOG_DEBUG)], "libvfio-user: %s", said)

    callback = context.callback("vfu_log_fn_t *", line, "a line of the log")
    level = LOG_DEBUG if log.isEnabledFor(logging.DEBUG) else LOG_INFO
    context.must(context.lib.vfu_setup_log(context.handle, callback, level), "the log callback")
