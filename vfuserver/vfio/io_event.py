"""Writes that come as signals: a place in a region, and the eventfd that a client may have signalled for it.

A client hands the eventfd to KVM (KVM_IOEVENTFD), which then signals it instead of leaving the guest. It must not know
registers, messages or event loops.
"""

from typing import Protocol

from vfuserver.vfio.uapi import IoEventFlags


class IoEvent(Protocol):
    """Writes of `size` bytes (0: of any size) at `offset` of a region; with `match` only those of that value.

    `shadow`: the value that was written is left in a file's first bytes, for kernels that know how.
    """

    @property
    def offset(self) -> int:
        """Bytes within the region."""

    @property
    def size(self) -> int:
        """Bytes of one write: 0, 1, 2, 4 or 8."""

    @property
    def match(self) -> int | None:
        """The value that rings; None: every value does."""

    @property
    def flags(self) -> IoEventFlags:
        """KVM_IOEVENTFD_FLAG_*."""

    @property
    def shadow(self) -> bool:
        """True if it has a file for the value."""

    def open(self) -> tuple[int, ...]:
        """The eventfd and, with `shadow`, the file. The backend's, until it is detached: the next client gets new
        ones, so that no former client can ring."""

    def rung(self) -> None:
        """The eventfd is readable."""
