"""The client's commands on interrupts."""

from collections.abc import Sequence

from vfuserver.client.base import ClientBase
from vfuserver.client.info import IrqInfo
from vfuserver.client.interrupt import Interrupt
from vfuserver.session.commands.device_get_irq_info import DeviceGetIrqInfo
from vfuserver.session.commands.device_set_irqs import DeviceSetIrqs
from vfuserver.vfio import IrqFlags, IrqSetFlags, PciIrq

NONE, BOOL, EVENTFD = IrqSetFlags.DATA_NONE, IrqSetFlags.DATA_BOOL, IrqSetFlags.DATA_EVENTFD
MASK, UNMASK, TRIGGER = IrqSetFlags.ACTION_MASK, IrqSetFlags.ACTION_UNMASK, IrqSetFlags.ACTION_TRIGGER


class IrqCommands(ClientBase):
    """DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS in all its shapes."""

    async def irq_info(self, index: int) -> IrqInfo:
        """How many vectors an index has."""
        request = DeviceGetIrqInfo.request.pack(DeviceGetIrqInfo.request.size, 0, index, 0)
        _, flags, number, count = DeviceGetIrqInfo.reply.unpack(await self.ask(DeviceGetIrqInfo, request))
        return IrqInfo(number, IrqFlags(flags), count)

    async def set_irqs(
        self,
        index: int,
        flags: IrqSetFlags,
        start: int = 0,
        count: int = 0,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """DEVICE_SET_IRQS, raw."""
        head = DeviceSetIrqs.request.pack(DeviceSetIrqs.request.size + len(data), flags, index, start, count)
        await self.ask(DeviceSetIrqs, head + data, fds)

    async def arm(
        self, index: int, count: int, start: int = 0, action: IrqSetFlags = IrqSetFlags.ACTION_TRIGGER
    ) -> list[Interrupt]:
        """New eventfds for `count` vectors, as many to a message as the server takes. The client owns them."""
        interrupts = [self.own(Interrupt(index, vector)) for vector in range(start, start + count)]
        step = max(1, min(self.server.max_msg_fds, DeviceSetIrqs.max_fds))
        for at in range(0, count, step):
            chunk = interrupts[at : at + step]
            fds = [interrupt.fd for interrupt in chunk]
            await self.set_irqs(index, EVENTFD | action, start + at, len(chunk), fds=fds)
        return interrupts

    async def arm_msix(self, count: int) -> list[Interrupt]:
        """Arms MSI-X vectors 0 to `count` - 1."""
        return await self.arm(PciIrq.MSIX, count)

    async def arm_msi(self, count: int = 1) -> list[Interrupt]:
        """Arms MSI vectors 0 to `count` - 1."""
        return await self.arm(PciIrq.MSI, count)

    async def arm_intx(self) -> Interrupt:
        """Arms the interrupt pin."""
        return (await self.arm(PciIrq.INTX, 1))[0]

    async def disarm(self, index: int, start: int, count: int) -> None:
        """Takes the eventfds of vectors away (DATA_EVENTFD without descriptors)."""
        await self.set_irqs(index, EVENTFD | TRIGGER, start, count)

    async def disable(self, index: int) -> None:
        """Disables an index."""
        await self.set_irqs(index, NONE | TRIGGER)

    async def mask(self, index: int, start: int, count: int = 1, chosen: Sequence[bool] | None = None) -> None:
        """Masks vectors; with `chosen`, those of the range that are true."""
        await self._act(MASK, index, start, count, chosen)

    async def unmask(self, index: int, start: int, count: int = 1, chosen: Sequence[bool] | None = None) -> None:
        """Unmasks vectors, as `mask`."""
        await self._act(UNMASK, index, start, count, chosen)

    async def trigger(self, index: int, start: int, count: int = 1, chosen: Sequence[bool] | None = None) -> None:
        """Makes the server signal our own eventfds, as `mask`."""
        await self._act(TRIGGER, index, start, count, chosen)

    async def _act(
        self, action: IrqSetFlags, index: int, start: int, count: int, chosen: Sequence[bool] | None
    ) -> None:
        if chosen is None:
            await self.set_irqs(index, NONE | action, start, count)
        else:
            await self.set_irqs(index, BOOL | action, start, len(chosen), bytes(chosen))
