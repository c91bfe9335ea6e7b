"""What peers do differently from the specification: one table, each with its reason, and how it is found out.

`SessionOptions.quirks` holds a value for each; `vfuserver serve --quirk NAME=VALUE` sets one. A quirk that needs no
choice is no quirk: what every known peer takes is what we do. It must not know sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vfuserver.errors import UsageError


@dataclass(frozen=True, slots=True)
class Quirk:
    """One peculiarity. `values` says of each value what it does; `found` how the right one is known."""

    values: Mapping[str, str]
    default: str
    reason: str
    found: str


MESSAGE_DMA: Final = "message-dma"
REGION_ERRORS: Final = "region-errors"
SPARSE_MMAP_FDS: Final = "sparse-mmap-fds"
PRIVATE_MEMORY: Final = "private-memory"
PRE_COPY: Final = "pre-copy"
MIG_DATA_READ: Final = "mig-data-read"

QUIRKS: Final[Mapping[str, Quirk]] = {
    MESSAGE_DMA: Quirk(
        values={
            "auto": "ask a client that looks like QEMU before the first DMA message",
            "spec": "data at message byte 32",
            "old": "data at message byte 28, replies to DMA_WRITE are bare headers",
        },
        default="auto",
        reason="the first QEMU client (10.1) declared a 32-bit count, which moves the data by four bytes (S0.14)",
        found="a DMA_WRITE of no bytes: a reply of 16 bytes means old, a longer one spec (field-notes C.8, G); say "
        "spec to libvfio-user's sample client, which waits for those bytes for good",
    ),
    REGION_ERRORS: Quirk(
        values={
            "reply": "an error reply",
            "all-ones": "reads give all ones, writes are dropped, as where no device is",
        },
        default="reply",
        reason="cloud-hypervisor ignores the Error flag and waits for a whole payload: its vCPU hangs for good",
        found="configured: such a client says nothing by which it could be known (field-notes C.10)",
    ),
    SPARSE_MMAP_FDS: Quirk(
        values={
            "agreed": "several descriptors for one region, capability 0x8001, if VERSION says sparse_mmap_fds",
            "16": "the same as capability 16, to every client",
        },
        default="agreed",
        reason="the proposal began with id 16 and nothing in VERSION; QEMU to 11.1 refuses a second descriptor",
        found="configured: a client of the first versions says nothing by which it could be known (field-notes E)",
    ),
    PRIVATE_MEMORY: Quirk(
        values={
            "auto": "of a client that looks like QEMU, ask its /proc/PID/maps, then compare transfers with messages",
            "compare": "the same without asking /proc",
            "trust": "what a descriptor leads to is what the client sees",
            "messages": "whatever client it is, reach all its memory by messages",
        },
        default="auto",
        reason="QEMU passes the descriptor of a memory-backend-file without share=on, which its guest never looks at",
        found="the client's own mappings, or bytes that differ between the mapping and a message (field-notes G)",
    ),
    PRE_COPY: Quirk(
        values={
            "continues": "one stream: STOP_COPY gives what pre-copy has not given, and what has changed since",
            "apart": "STOP_COPY gives the whole stream, as if there had been no pre-copy",
        },
        default="continues",
        reason="libvfio-user's sample client (version 2) throws away what it has read in PRE_COPY (S3.11)",
        found="configured: such a client says nothing by which it could be known",
    ),
    MIG_DATA_READ: Quirk(
        values={
            "exact": "a reply has as many bytes as there are",
            "padded": "where fewer are there than were asked for, zeros behind them; the reply's size tells how many",
        },
        default="exact",
        reason="libvfio-user's sample client (version 2) takes a reply that is shorter for the end of the connection",
        found="configured: such a client says nothing by which it could be known",
    ),
}


def chosen(given: Mapping[str, str]) -> dict[str, str]:
    """A value for every quirk: the given one, or the default. UsageError: no such quirk or value."""
    for name, value in given.items():
        if name not in QUIRKS:
            raise UsageError(f"quirk must be one of {', '.join(QUIRKS)}, not {name!r}")
        if value not in list(QUIRKS[name].values):  # a configuration file may hold anything
            raise UsageError(f"quirk {name} must be {' or '.join(QUIRKS[name].values)}, not {value!r}")
    return {name: given.get(name, quirk.default) for name, quirk in QUIRKS.items()}
