"""The client's calls on migration where there is none: each is refused, and the connection goes on."""

from collections.abc import Awaitable, Callable

import pytest

from vfuserver.client import Client
from vfuserver.errors import CommandError
from vfuserver.session import Operation
from vfuserver.vfio import MigrationState

CALLS: list[Callable[[Client], Awaitable[object]]] = [
    Client.migration_flags,
    Client.device_state,
    Client.data_size,
    Client.precopy_info,
    lambda client: client.set_device_state(MigrationState.STOP),
    lambda client: client.read_state(1),
    lambda client: client.write_state(b"state"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_a_device_without_migration_refuses(client: Client, call: Callable[[Client], Awaitable[object]]) -> None:
    """S3.2"""
    with pytest.raises(CommandError):
        await call(client)
    assert (await client.device_info()).num_regions == 9


async def test_a_feature_s_operations_are_probed(client: Client) -> None:
    """S0.3: nothing is done, and what is not there is no error."""
    asked = [(6, Operation.SET), (6, Operation.GET), (1, Operation.GET), (0x7FFF, Operation.SET)]
    assert [await client.offers(*one) for one in asked] == [True, False, False, False]
    assert await client.dma_logging_start() == 4096
