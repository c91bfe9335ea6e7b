"""Another device's region as something to be mapped: peer to peer, from the client's side.

A server that has the region's descriptor reaches it without the client. Without, its DMA messages come here and become
region accesses on the other device's connection, as QEMU does it (S0.14); the two servers may be one. It must not know
who maps it.
"""

from vfuserver.client.region_commands import RegionCommands


class PeerRegion:
    """A `Memory` (see guest_memory): offsets are the region's."""

    def __init__(self, client: RegionCommands, index: int) -> None:
        self._client = client
        self._index = index

    @property
    def _largest(self) -> int:
        """Bytes of one access: what the peer can receive."""
        return self._client.server.max_data_xfer_size

    async def read(self, offset: int, length: int) -> bytes:
        """REGION_READ. CommandError."""
        starts = range(offset, offset + length, self._largest)
        parts = [
            await self._client.region_read(self._index, at, min(self._largest, offset + length - at)) for at in starts
        ]
        return b"".join(parts)

    async def write(self, offset: int, data: bytes) -> None:
        """REGION_WRITE. CommandError."""
        for at in range(0, len(data), self._largest):
            await self._client.region_write(self._index, offset + at, data[at : at + self._largest])
