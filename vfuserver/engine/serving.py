"""What a server asks of one device that it serves, whatever engine does it.

It must not know engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vfuserver.engine.listen import Listener
from vfuserver.vfio import Backend

if TYPE_CHECKING:
    from vfuserver.session import Keeper, SessionOptions


class Serving(Protocol):
    """One device that an engine serves, from begin() or adopt() on."""

    finished: asyncio.Future[None]
    """Done once there will be no further client."""
    listener: Listener

    @property
    def name(self) -> str:
        """The device's."""

    def begin(self) -> None:
        """From now on the device is served."""

    async def dump(self) -> dict[str, Any]:
        """The device, where it is served, and its client, as plain data (S4.26)."""

    def close(self) -> None:
        """Disconnects the client, stops listening, closes the device."""

    # -- from process to process: CommandError(ENOTSUP) where an engine cannot

    async def pause(self, patience: float) -> float:
        """Stands still after at most so many seconds; since when (time.monotonic()). CommandError: not; it goes on."""

    def resume(self) -> None:
        """Goes on after pause(), or after it was taken over."""

    def kept(self) -> dict[str, Any]:
        """As carry(), at this moment, and it goes on. CommandError: not now (EBUSY), or never (ENOTSUP)."""

    def carry(self) -> dict[str, Any]:
        """Everything of the paused device and its connection, for another process (plain data, descriptors lent)."""

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes what carry() told of, paused: a device that was just made. CommandError, OSError, PeerError: not."""

    def again(self, noted: Sequence[Any]) -> None:
        """Does what the process that was killed had noted after it had told the rest, except the message in hand."""

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and neither client nor log are told."""


Serve = Callable[[Backend, Listener, "SessionOptions", asyncio.AbstractEventLoop, "Keeper | None"], Serving]
"""An engine's: what will serve a backend on a listener, and owns both. With a keeper both outlive the process."""
