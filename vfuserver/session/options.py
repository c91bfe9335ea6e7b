"""What an operator may choose for a connection. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vfuserver.errors import UsageError
from vfuserver.session import quirks
from vfuserver.session.negotiation import Capabilities

MAX_MSG_FDS: Final = 16
"""QEMU refuses a server that advertises more (field-notes C.2)."""
MAX_DATA_XFER_SIZE: Final = 64 << 20
"""Likewise."""
MAX_DMA_MAPS: Final = 65535
"""Likewise."""
MAX_DMA_BYTES: Final = (1 << 64) - 1
MAX_DMA_VIEWS: Final = 1 << 16
"""A process has that many mappings, and no more, unless its system says otherwise (vm.max_map_count)."""
PAGE: Final = 4096
POLL: Final = ("auto", "off", "dedicated")
DEDICATED: Final = "dedicated"
POLL_US: Final = {"auto": 50, "off": 0, DEDICATED: 500}
MAX_POLL_US: Final = 1000
"""Longer than that nothing may keep the loop from its timers."""
MIGRATION: Final = ("v2", "v1", "both", "none")


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Limits that this end states in VERSION (S1.14), and how long a command may wait for its answer.

    `deadline` is in seconds and lies below QEMU's 5 s: a reply that comes after the client's own time-out kills the
    connection (field-notes G). `max_dma_bytes` (of all areas together), `max_dma_views` and `revoke_after`, the
    seconds that an unmapped view may still be held (at most half of the deadline), are this end's alone.
    `write_multiple` is off unless asked for: QEMU before 11.0 gets slower by it (C.4).
    `twin_socket` gives a client that proposes it a second socket for our own commands.
    `migration` says which of its two versions a device that migrates offers: v2, v1, both or none. With
    `hide_peer_to_peer` its P2P states are not told; an arc of more than `slow_arc` seconds is a warning (S3.26).
    `poll` says whether the next message is polled for while that pays (auto), never (off), or always, by a thread that
    has no other device (dedicated); then everything else that the thread does may be later by up to `poll_us`
    microseconds (None: 50, or 500 on a thread of its own).
    `quirks` has a value for every one of `vfuserver.session.quirks`; those that were not given are the defaults.
    """

    max_msg_fds: int = MAX_MSG_FDS
    max_data_xfer_size: int = 1 << 20
    max_dma_maps: int = MAX_DMA_MAPS
    max_dma_bytes: int = MAX_DMA_BYTES
    max_dma_views: int = 1024
    revoke_after: float = 0.1
    pgsizes: int = PAGE
    write_multiple: bool = False
    twin_socket: bool = True
    deadline: float = 4.0
    migration: str = "v2"
    hide_peer_to_peer: bool = False
    slow_arc: float = 1.0
    poll: str = "auto"
    poll_us: int | None = None
    quirks: Mapping[str, str] = field(default_factory=dict)
    capabilities: Capabilities = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _must_lie("max_msg_fds", self.max_msg_fds, 1, MAX_MSG_FDS)
        _must_lie("max_data_xfer_size", self.max_data_xfer_size, PAGE, MAX_DATA_XFER_SIZE)
        _must_lie("max_dma_maps", self.max_dma_maps, 1, MAX_DMA_MAPS)
        _must_lie("max_dma_bytes", self.max_dma_bytes, 1, MAX_DMA_BYTES)
        _must_lie("max_dma_views", self.max_dma_views, 0, MAX_DMA_VIEWS)
        if self.pgsizes <= 0 or self.pgsizes % PAGE:
            raise UsageError(f"pgsizes must be page sizes of at least {PAGE} or'ed together, not {self.pgsizes}")
        if self.deadline <= 0:
            raise UsageError(f"deadline must be a time in seconds, not {self.deadline}")
        if self.revoke_after < 0:
            raise UsageError(f"revoke_after must be a time in seconds, not {self.revoke_after}")
        if self.slow_arc < 0:
            raise UsageError(f"slow_arc must be a time in seconds, not {self.slow_arc}")
        if self.migration not in MIGRATION:
            raise UsageError(f"migration must be {', '.join(MIGRATION)}, not {self.migration!r}")
        if self.poll not in POLL:
            raise UsageError(f"poll must be {', '.join(POLL)}, not {self.poll!r}")
        if self.poll_us is not None:
            _must_lie("poll_us", self.poll_us, 1, MAX_POLL_US)
        object.__setattr__(self, "quirks", quirks.chosen(self.quirks))
        object.__setattr__(self, "capabilities", self._capabilities())

    @property
    def migration_v1(self) -> bool:
        """Whether devices that migrate have the region of version 1, and command 14."""
        return self.migration in ("v1", "both")

    @property
    def migration_v2(self) -> bool:
        """Whether they have the features and commands of version 2."""
        return self.migration in ("v2", "both")

    @property
    def poll_limit(self) -> int:
        """For how many microseconds a turn may poll; 0: not at all."""
        return POLL_US[self.poll] if self.poll_us is None or self.poll == "off" else self.poll_us

    @property
    def dma_page(self) -> int:
        """What areas are made of, in bytes: the smallest of pgsizes."""
        return self.pgsizes & -self.pgsizes

    def _capabilities(self) -> Capabilities:
        return Capabilities(
            max_data_xfer_size=self.max_data_xfer_size,
            max_msg_fds=self.max_msg_fds,
            max_dma_maps=self.max_dma_maps,
            write_multiple=self.write_multiple,
            twin_socket=self.twin_socket,
            pgsizes=self.pgsizes,
            whole_messages=True,
            sparse_mmap_fds=self.quirks[quirks.SPARSE_MMAP_FDS] == "agreed",
        )


def _must_lie(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} must be {low} to {high}, not {value}")
