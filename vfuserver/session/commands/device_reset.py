"""DEVICE_RESET: the device back to its power-on state."""

from vfuserver.session.command import Answer, Command, Request, Survival
from vfuserver.session.connection import Connection
from vfuserver.vfio import ResetReason


class DeviceReset(Command, number=13, name="DEVICE_RESET"):
    """VFIO_USER_DEVICE_RESET: the reply comes when the reset is complete. Areas and eventfds survive (S2.30),
    DMA logging does not (S3.18)."""

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """A reset is not undone."""
        return Survival.KEPT_ANEW

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Resets the device, now or later."""
        connection.stop_logging()
        later = connection.backend.reset(ResetReason.MESSAGE)
        return b"" if later is None else later
