"""The client's commands on its own memory."""

from vfuserver.client.base import ClientBase
from vfuserver.client.guest_memory import GuestMemory, Mapping
from vfuserver.errors import VfuserverError
from vfuserver.session.commands.dma_map import DmaMap, DmaMapFlags
from vfuserver.session.commands.dma_unmap import DmaUnmap, DmaUnmapFlags

READ_WRITE = DmaMapFlags.READ | DmaMapFlags.WRITE
NO_MODE = DmaMapFlags(0)


class DmaCommands(ClientBase):
    """DMA_MAP and DMA_UNMAP. What is mapped here is also what the server's DMA messages reach."""

    async def dma_map(
        self,
        iova: int,
        memory: GuestMemory,
        *,
        offset: int = 0,
        size: int | None = None,
        access: DmaMapFlags = READ_WRITE,
        mode: DmaMapFlags = NO_MODE,
        share: bool = True,
    ) -> None:
        """Maps `size` bytes (None: the rest) of guest memory at `iova`. Not `share`: no fd, so by messages only.

        `mode` says what the server may do with the fd: MMAP, FILE_IO, or both; none is what clients from before the
        modes send, and means MMAP.
        """
        length = memory.size - offset if size is None else size
        mapping = Mapping(iova, length, memory, offset, access)
        request = DmaMap.request.pack(DmaMap.request.size, access | mode, offset if share else 0, iova, length)
        self.guest.add(mapping)
        try:
            await self.ask(DmaMap, request, [memory.fd] if share else [])
        except VfuserverError:
            self.guest.discard(mapping)
            raise

    async def dma_unmap(self, iova: int, size: int) -> None:
        """Unmaps every range wholly inside this one."""
        await self.ask(DmaUnmap, DmaUnmap.request.pack(DmaUnmap.request.size, 0, iova, size))
        self.guest.remove(iova, size)

    async def dma_unmap_all(self) -> None:
        """Unmaps everything."""
        await self.ask(DmaUnmap, DmaUnmap.request.pack(DmaUnmap.request.size, DmaUnmapFlags.ALL, 0, 0))
        self.guest.remove(0, 1 << 64)
