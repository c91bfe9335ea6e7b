"""The connection's part of a migration, beside the device's: what it has read ahead, and whether the end was there."""

import pytest

from tests.device.handover.carrying import succeeded
from tests.device.migration.models import Everything
from tests.device.migration.moving import S, load
from tests.device.migration.test_save_and_load import used
from vfuserver.session.log import ConnectionLog
from vfuserver.session.migration import Machine


def machine(device: Everything) -> Machine:
    """One connection's."""
    assert device.migration is not None
    return Machine(device, device.migration, ConnectionLog("test"))


@pytest.mark.parametrize("size", [1, 100, 5000])
async def test_bytes_that_were_read_ahead_are_read_by_the_next_process(size: int) -> None:
    """S3.12, S3.28: in pieces, and behind the end."""
    device = Everything()
    used(device)
    one, stream = machine(device), b""
    assert one.move(S.STOP_COPY) is None
    for _ in range(9):
        stream += b"".join(one.read(size))
        one.waiting(700)
        left, other = one.left(), Everything()
        await succeeded(device, other)
        device, after = other, machine(other)
        after.adopt(one.carry())
        assert (after.streams, after.state) == (1, S.STOP_COPY)
        assert abs(after.left() - left) < 1000
        one = after
    while piece := b"".join(one.read(4096)):
        stream += piece
    target = Everything()
    await load(target, stream)
    assert one.move(S.STOP) is None
    assert target.snapshot() == device.snapshot()
    target.close()
    device.close()
