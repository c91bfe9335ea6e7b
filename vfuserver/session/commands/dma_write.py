"""DMA_WRITE: the server hands the client bytes for its memory. Sent by `vfuserver.session.outgoing`."""

from vfuserver.session.command import Command, Direction
from vfuserver.wire import U64, Blob, Count, Layout


class DmaWrite(Command, number=12, name="DMA_WRITE"):
    """VFIO_USER_DMA_WRITE. The text gives the reply a 32-bit count; QEMU sends 64 bits, or a bare header (S0.14)."""

    direction = Direction.TO_CLIENT
    request = Layout("address" / U64, "count" / Count(U64, "data"), "data" / Blob("count"))
    reply = Layout("address" / U64, "count" / U64)
