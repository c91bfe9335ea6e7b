"""The client's commands on what its device may reach: guest memory, and other devices' regions."""

import errno
from contextlib import closing

from vfuserver.client.base import ClientBase
from vfuserver.client.guest_memory import GuestMemory, Mapping
from vfuserver.client.peer_region import PeerRegion
from vfuserver.client.region_commands import RegionCommands
from vfuserver.errors import CommandError, VfuserverError
from vfuserver.session.commands.dma_map import DmaMap, DmaMapFlags
from vfuserver.session.commands.dma_unmap import DmaUnmap, DmaUnmapFlags
from vfuserver.vfio import MmapArea

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
        await self._map(Mapping(iova, length, memory, offset, access), mode, (memory.fd, offset) if share else None)

    async def dma_map_peer(
        self, iova: int, peer: RegionCommands, index: int, *, access: DmaMapFlags = READ_WRITE, share: bool = True
    ) -> None:
        """Maps a region of another device (peer to peer), as far as that lets its clients map it.

        Each mappable area is one DMA_MAP at `iova` + its offset, with the area's descriptor; not `share`, and what the
        server cannot map, by messages, which become region accesses on the peer's connection. CommandError; EINVAL if
        nothing of the region is mappable: no bus master reaches it then.
        """
        with closing(await peer.region_info(index)) as info:
            if info.fd < 0:
                raise CommandError(errno.EINVAL, f"region {index} has nothing that can be mapped")
            region = PeerRegion(peer, index)
            for area in info.areas or (MmapArea(0, info.size),):
                file = info.file_of(area) if share else None
                await self._map(Mapping(iova + area.offset, area.size, region, area.offset, access), NO_MODE, file)

    async def _map(self, mapping: Mapping, mode: DmaMapFlags, file: tuple[int, int] | None) -> None:
        """`file`: descriptor and offset, or None."""
        fds, offset = ([file[0]], file[1]) if file else ([], 0)
        request = DmaMap.request.pack(DmaMap.request.size, mapping.access | mode, offset, mapping.iova, mapping.size)
        self.guest.add(mapping)
        try:
            await self.ask(DmaMap, request, fds)
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
