"""The vectors of one message-signalled interrupt index, MSI or MSI-X: sent, or pending until they can be.

A raised vector is sent if nothing is in the way: a client with an eventfd that SET_IRQS does not mask, bus mastering
(S2.15), the migration state (S3.9), the capability's own masks (S2.20, S2.21). Otherwise it is pending; raising it
again changes nothing; it is sent once when the way is free. It must not know what the masks are.
"""

from collections.abc import Callable
from typing import Final

from vfuserver._core import Gate
from vfuserver.errors import LocalError
from vfuserver.vfio import Client, PciIrq

_ALLOWED: Final = Gate.MASTER | Gate.RUNNING
_ACTING: Final = _ALLOWED | Gate.QUIET


class MessageVectors:
    """`count` vectors of `index`. `masked(vector)` asks the capability, `show(vector, pending)` sets a pending bit."""

    def __init__(
        self,
        index: PciIrq,
        count: int,
        gate: Gate,
        masked: Callable[[int], bool],
        show: Callable[[int, bool], None],
    ) -> None:
        self.index = index
        self.count = count
        self.pending = 0
        self._gate = gate
        self._masked = masked
        self._show = show
        self._client: Client | None = None

    @property
    def armed(self) -> bool:
        """True while the client has armed the index (S2.21)."""
        return self._client is not None and self._client.interrupts.armed(self.index)

    def raise_(self, vector: int) -> None:
        """Sends a vector, or keeps it pending. LocalError if the index has no such vector."""
        if not 0 <= vector < self.count:
            raise LocalError(f"{self.index.name} vector must be less than {self.count}, not {vector}")
        if not self._sent(vector):
            self._set_pending(vector, True)

    def retry(self, start: int = 0, count: int | None = None) -> None:
        """Sends what is pending among [start, start + count), if it can be sent now."""
        end = self.count if count is None else min(self.count, start + count)
        for vector in range(start, end):
            if self.pending >> vector & 1 and self._sent(vector):
                self._set_pending(vector, False)

    def reset(self) -> None:
        """Nothing is pending any more."""
        self.restore(0)

    def restore(self, pending: int) -> None:
        """Sets all pending bits, from a snapshot."""
        self.pending = pending
        for vector in range(self.count):
            self._show(vector, bool(pending >> vector & 1))

    def attach(self, client: Client | None) -> None:
        """The client whose eventfds are signalled, or None."""
        self._client = client

    def _sent(self, vector: int) -> bool:
        if self._client is None or not self._gate.shows(_ACTING, _ALLOWED) or self._masked(vector):
            return False
        return self._client.interrupts.trigger(self.index, vector)

    def _set_pending(self, vector: int, pending: bool) -> None:
        bit = 1 << vector
        if bool(self.pending & bit) != pending:
            self.pending ^= bit
            self._show(vector, pending)
