"""DMA_READ: the server asks the client for bytes of its memory. Sent by `vfuserver.session.outgoing`."""

from vfuserver.session.command import Command, Direction
from vfuserver.wire import U64, Blob, Count, Layout


class DmaRead(Command, number=11, name="DMA_READ"):
    """VFIO_USER_DMA_READ: `count` is 64 bits wide and the data begin at message byte 32 (S0.14)."""

    direction = Direction.TO_CLIENT
    request = Layout("address" / U64, "count" / U64)
    reply = Layout("address" / U64, "count" / Count(U64, "data"), "data" / Blob("count"))
