"""DMA_LOGGING_STOP: what the device writes is not noted any more."""

import errno

from vfuserver.errors import CommandError
from vfuserver.session.command import Survival
from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation


class DmaLoggingStop(Feature, number=7, name="DMA_LOGGING_STOP", operations=Operation.SET):
    """VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP (linux/vfio.h): EINVAL where nothing was started (S3.18)."""

    survival = Survival.AGAIN

    @classmethod
    def set(cls, connection: Connection, data: bytes) -> bytes:
        """Stops it; what was not reported is lost."""
        if not connection.stop_logging():
            raise CommandError(errno.EINVAL, "DMA is not logged, must be started (feature 6) first")
        return data
