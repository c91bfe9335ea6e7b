"""A connection's own log: every line starts with the device's name and the connection's number."""

import logging
from collections.abc import MutableMapping
from itertools import count
from typing import Any

_NUMBERS = count(1)


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """Logs under `vfuserver.session.DEVICE`, as `DEVICE#N: ...`; `name` is DEVICE#N."""

    def __init__(self, device: str) -> None:
        super().__init__(logging.getLogger("vfuserver.session").getChild(device), {})
        self.label = f"{device}#{next(_NUMBERS)}"

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Puts the connection's name before the text."""
        return f"{self.label}: {msg}", kwargs
