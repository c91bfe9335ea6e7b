"""The client's commands on the device and its regions."""

from collections.abc import Iterable

from vfuserver.client.base import ClientBase
from vfuserver.client.info import DeviceInfo, RegionInfo
from vfuserver.client.io_fds import RegionIoFds, decode_io_fds
from vfuserver.errors import CommandError, PeerError
from vfuserver.session.commands.device_feature import DeviceFeature
from vfuserver.session.commands.device_get_info import DeviceGetInfo
from vfuserver.session.commands.device_get_region_info import DeviceGetRegionInfo
from vfuserver.session.commands.device_get_region_io_fds import DeviceGetRegionIoFds
from vfuserver.session.commands.device_reset import DeviceReset
from vfuserver.session.commands.region_read import RegionRead
from vfuserver.session.commands.region_write import RegionWrite
from vfuserver.session.commands.region_write_multi import RegionWriteMulti
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.feature import FIXED, Operation
from vfuserver.session.region_capabilities import mappable_areas
from vfuserver.vfio import DeviceFlags, RegionFlags


class RegionCommands(ClientBase):
    """DEVICE_GET_INFO, DEVICE_GET_REGION_INFO and _IO_FDS, REGION_*, DEVICE_RESET and DEVICE_FEATURE."""

    async def device_info(self) -> DeviceInfo:
        """What kind of device it is."""
        reply = await self.ask(DeviceGetInfo, DeviceGetInfo.request.pack(DeviceGetInfo.request.size, 0, 0, 0))
        _, flags, regions, irqs = DeviceGetInfo.reply.unpack(reply)
        return DeviceInfo(DeviceFlags(flags), regions, irqs)

    async def region_info(self, index: int) -> RegionInfo:
        """One region. Asks a second time where the capabilities did not fit, as QEMU does. The client owns its fd."""
        payload, fds = await self._region_info(index, DeviceGetRegionInfo.request.size)
        needed = DeviceGetRegionInfo.reply.unpack(payload)[0]
        if needed > DeviceGetRegionInfo.request.size:
            fds.close()
            payload, fds = await self._region_info(index, needed)
        with fds:
            _, flags, index, caps, size, offset = DeviceGetRegionInfo.reply.unpack(payload)
            areas = mappable_areas(payload, caps, [*fds]) if flags & RegionFlags.CAPS else ()
            if len(fds) > max(1, len({area.fd for area in areas})):
                raise PeerError(f"{len(fds)} descriptors came with the info of region {index}, more than its areas use")
            return self.own(RegionInfo(index, RegionFlags(flags), size, offset, areas, fds.take()))

    async def _region_info(self, index: int, argsz: int) -> tuple[bytes, Descriptors]:
        request = DeviceGetRegionInfo.request.pack(argsz, 0, index, 0, 0, 0)
        return await self.ask_for_fds(DeviceGetRegionInfo, request)

    async def region_io_fds(self, index: int) -> RegionIoFds:
        """Which accesses of a region may come by descriptors. Asks again with the argsz that a reply needs. The client
        owns the descriptors. PeerError: sub-regions that make no sense."""
        needed = DeviceGetRegionIoFds.reply.size
        for _ in range(2):
            request = DeviceGetRegionIoFds.request.pack(needed, 0, index, 0)
            payload, fds = await self.ask_for_fds(DeviceGetRegionIoFds, request)
            with fds:
                needed, _, _, count = DeviceGetRegionIoFds.reply.unpack(payload)
                if len(payload) == needed:
                    sub_regions = decode_io_fds(payload, needed, count, [*fds])
                    return self.own(RegionIoFds(index, sub_regions, fds.take()))
        raise PeerError(f"the server's reply says {needed} bytes, and has {len(payload)}")

    async def region_read(self, region: int, offset: int, count: int) -> bytes:
        """`count` bytes of a region."""
        reply = await self.ask(RegionRead, RegionRead.request.pack(offset, region, count))
        data = reply[RegionRead.reply.size :]
        if len(data) != count:
            raise PeerError(f"{len(data)} bytes came for a REGION_READ of {count}")
        return data

    async def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Writes to a region. `posted`: without a reply; then nobody learns whether it worked."""
        payload = RegionWrite.request.pack(offset, region, len(data)) + data
        if posted:
            await self.command(RegionWrite.number, payload, no_reply=True)
        else:
            await self.ask(RegionWrite, payload)

    async def region_write_multi(self, writes: Iterable[tuple[int, int, bytes]], *, posted: bool = False) -> int:
        """Several writes, (region, offset, at most 8 bytes) each, in one message; how many the server did."""
        listed = [
            {"offset": offset, "region": region, "count": len(data), "data": data.ljust(8, b"\0")}
            for region, offset, data in writes
        ]
        payload = RegionWriteMulti.request.build(wrs=listed)
        if posted:
            await self.command(RegionWriteMulti.number, payload, no_reply=True)
            return len(listed)
        return RegionWriteMulti.reply.unpack(await self.ask(RegionWriteMulti, payload))[0]

    async def reset(self) -> None:
        """DEVICE_RESET."""
        await self.ask(DeviceReset)

    async def feature(
        self,
        index: int,
        operation: Operation = Operation.GET,
        data: bytes = b"",
        *,
        argsz: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """DEVICE_FEATURE: the data of the reply. `argsz` defaults to what a reply of our own limit may need."""
        room = argsz if argsz is not None else FIXED + self.guest.max_transfer
        request = DeviceFeature.request.build(argsz=room, flags=index | operation, data=data)
        reply = await self.ask(DeviceFeature, request, timeout=timeout)
        return reply[FIXED:]

    async def offers(self, index: int, operation: Operation) -> bool:
        """Whether the server has a feature with these operations (PROBE); nothing is done."""
        try:
            await self.feature(index, Operation.PROBE | operation)
        except CommandError:
            return False
        return True

    # -- configuration space (region 7)

    async def config_read(self, offset: int, width: int = 4) -> int:
        """`width` bytes of configuration space as a number."""
        return int.from_bytes(await self.region_read(CONFIG, offset, width), "little")

    async def config_write(self, offset: int, value: int, width: int = 4) -> None:
        """Writes `width` bytes of configuration space."""
        await self.region_write(CONFIG, offset, value.to_bytes(width, "little"))

    async def config_space(self) -> bytes:
        """All of configuration space in one read, as QEMU does it."""
        info = await self.region_info(CONFIG)
        info.close()
        return await self.region_read(CONFIG, 0, info.size)

    async def enable(self) -> None:
        """Sets COMMAND to I/O, memory and bus master, as a driver does first."""
        await self.config_write(COMMAND, 0x7, 2)


CONFIG = 7
COMMAND = 0x04
