"""The log on stderr: time, level, device#connection, text. It must not know who logs."""

import logging
import sys

LEVELS = ("debug", "info", "warning", "error")


def log_to_stderr(level: str) -> None:
    """Everything from `level` up goes to stderr, one line each; tracebacks follow their line."""
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.addLevelName(number, logging.getLevelName(number).lower())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
