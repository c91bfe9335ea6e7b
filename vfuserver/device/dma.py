"""DMA as a device model sees it: the memory of whoever is connected, refused while the device may not master the bus.

Between a model and the client's memory stand COMMAND's bus-master bit (S2.15), the migration state (S3.9) and the
question whether there is a client at all. It must not know how the memory is reached.
"""

import errno

from vfuserver._core import Gate
from vfuserver.device.run import CURRENT_RUN
from vfuserver.errors import DmaError
from vfuserver.vfio import Client, Memory


class Dma:
    """The client's memory by IOVA (bytes). Every call may raise DmaError.

    `errno` is ENODEV (no client, or the one that a job was started for is gone), EPERM (bus mastering off, or the
    mapping's permission), EFAULT (not mapped), EBUSY (the device is stopped), EIO (the client refused) or EDEADLK
    (message DMA while a command waits for the answer: go on in a job).
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._client: Client | None = None
        self.outstanding = 0

    def attach(self, client: Client) -> None:
        """From now on this client's memory."""
        self._client = client

    def detach(self) -> None:
        """No memory any more."""
        self._client = None

    async def read(self, iova: int, length: int) -> bytes:
        """Reads `length` bytes, by copy where memory is mapped and by messages where it is not."""
        memory = self._memory()
        self.outstanding += 1
        try:
            return await memory.read(iova, length)
        finally:
            self.outstanding -= 1

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`, as read()."""
        memory = self._memory()
        self.outstanding += 1
        try:
            await memory.write(iova, data)
        finally:
            self.outstanding -= 1

    def read_now(self, iova: int, length: int) -> bytes:
        """Reads mapped memory at once; legal in hooks. EFAULT where only messages reach."""
        return self._memory().read_now(iova, length)

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes mapped memory at once, as read_now()."""
        self._memory().write_now(iova, data)

    def _memory(self) -> Memory:
        run = CURRENT_RUN.get()
        if self._client is None:
            raise DmaError(errno.ENODEV, "no client is connected")
        if run is not None and run.client_lost:
            raise DmaError(errno.ENODEV, f"the client that {run.what} was started for is gone")
        word = self._gate.word
        if not word & Gate.MASTER:
            raise DmaError(errno.EPERM, "bus mastering is off (COMMAND bit 2)")
        if not word & Gate.RUNNING:
            raise DmaError(errno.EBUSY, "the device is stopped")
        return self._client.memory
