"""A connection's own log: every line starts with the device's name and the connection's number.

What a client's messages cause goes through `provoked`, which writes so many lines in a while and counts the rest: a
client that errs in a loop fills no disk. It must not know what the lines are about.
"""

import logging
import time
from collections.abc import Callable, MutableMapping
from itertools import count
from typing import Any, Final

BURST: Final = 20
"""Provoked lines of one connection that are written in PERIOD."""

PERIOD: Final = 10.0
"""Seconds."""

_NUMBERS = count(1)


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """Logs under `vfuserver.session.DEVICE`, as `DEVICE#N: ...`; `label` is DEVICE#N."""

    def __init__(self, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.getLogger("vfuserver.session").getChild(device), {})
        self.label = f"{device}#{next(_NUMBERS)}"
        self._clock = clock
        self._since = clock()
        self._written = 0
        self._withheld = 0

    def adopt(self, label: str) -> None:
        """The connection goes on from another process: it keeps its name, and no other one gets it."""
        global _NUMBERS
        self.label = label
        _NUMBERS = count(max(int(label.rpartition("#")[2]) + 1, next(_NUMBERS)))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Puts the connection's name before the text."""
        return f"{self.label}: {msg}", kwargs

    def provoked(self, level: int, text: str, *args: object, error: BaseException | None = None) -> None:
        """Logs what the client has caused, with the traceback of `error`, as long as it is not too much of it."""
        if not self.isEnabledFor(level):
            return
        now = self._clock()
        if now - self._since >= PERIOD:
            self.tell_withheld()
            self._since, self._written = now, 0
        if self._written < BURST:
            self._written += 1
            self.log(level, text, *args, exc_info=error)
        else:
            self._withheld += 1

    def tell_withheld(self) -> None:
        """Says how many lines were not written since it was last said; nothing if there were none."""
        if self._withheld:
            withheld, self._withheld = self._withheld, 0
            self.warning("%d more lines about this client were not written (%d in %g s are)", withheld, BURST, PERIOD)
