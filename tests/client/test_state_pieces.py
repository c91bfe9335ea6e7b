"""State in pieces, by the client: how much a message carries, and that several may be under way (S3.11, S3.14)."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.client.conftest import connected
from tests.session.migrating import MigratingDevice
from vfuserver.client import AT_ONCE, OWN_PROPOSAL, QEMU_PROPOSAL, Client
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.vfio import MigrationState

MOST = 1 << 20
DATA = bytes(range(256)) * (5 * MOST // 256) + b"and the end"


@pytest.fixture
def moving() -> Iterator[MigratingDevice]:
    backend = MigratingDevice()
    yield backend
    backend.close()


@asynccontextmanager
async def in_state(
    moving: MigratingDevice, state: MigrationState, proposal: object = OWN_PROPOSAL, most: int = MOST
) -> AsyncIterator[Client]:
    async with connected(moving, SessionOptions(max_data_xfer_size=most)) as client:
        await client.negotiate(proposal)  # type: ignore[arg-type]
        await client.set_device_state(state)
        yield client


@pytest.mark.parametrize("most", [4096, 100_000, MOST])
async def test_state_comes_whole_in_pieces_of_any_size(moving: MigratingDevice, most: int) -> None:
    moving.account.late = [DATA[at : at + 77_777] for at in range(0, len(DATA), 77_777)]
    async with in_state(moving, MigrationState.STOP_COPY, most=most) as client:
        pieces = [bytes(piece) async for piece in client.state_pieces()]
        assert {len(piece) for piece in pieces[:-1]} == {most}
        assert b"".join(pieces) == DATA
        assert [piece async for piece in client.state_pieces()] == []


@pytest.mark.parametrize(("most", "pieces"), [(1, 1), (MOST, 1), (MOST + 1, 2), (4 * MOST, 4), (100 * MOST, 6)])
async def test_as_many_whole_pieces_are_asked_for_as_cover_what_is_wanted(
    moving: MigratingDevice, most: int, pieces: int
) -> None:
    """S3.13: it is an estimate. Nothing is lost, whoever goes on reading gets the rest."""
    moving.account.early = [DATA]
    async with in_state(moving, MigrationState.PRE_COPY) as client:
        first = [bytes(piece) async for piece in client.state_pieces(most)]
        assert len(first) == pieces
        assert b"".join([*first, *[bytes(piece) async for piece in client.state_pieces()]]) == DATA


async def test_what_comes_after_an_empty_piece_is_not_lost(moving: MigratingDevice) -> None:
    """S3.12: in pre-copy there may be more at any time, also for a piece that was asked for ahead."""
    async with in_state(moving, MigrationState.PRE_COPY) as client:
        found = [bytes(piece) async for piece in client.state_pieces()]
        moving.account._early.append(b"more")
        found += [bytes(piece) async for piece in client.state_pieces()]
    assert found == [b"more"]


@pytest.mark.parametrize(
    ("proposal", "size"), [(OWN_PROPOSAL, MOST), (QEMU_PROPOSAL, AT_ONCE), (None, AT_ONCE)], ids=["own", "QEMU", "none"]
)
async def test_a_server_that_says_nothing_gets_small_pieces(
    moving: MigratingDevice, proposal: object, size: int
) -> None:
    """libvfio-user's servers take one recv for a message."""
    async with in_state(moving, MigrationState.RESUMING, proposal) as client:
        await client.write_state(DATA)
        assert bytes(moving.account.loaded) == DATA
        assert moving.account.sizes == [size] * (len(DATA) // size) + [len(DATA) % size]


async def test_pieces_may_be_made_smaller(moving: MigratingDevice) -> None:
    async with in_state(moving, MigrationState.RESUMING) as client:
        await client.write_state(DATA[:10], 3)
        assert moving.account.sizes == [3, 3, 3, 1]


async def test_a_refusal_is_told_and_later_replies_are_nobodys(moving: MigratingDevice) -> None:
    """S3.14."""
    async with in_state(moving, MigrationState.RESUMING) as client:
        with pytest.raises(CommandError):
            await client.write_state(b"!" + DATA)
        await client.set_device_state(MigrationState.STOP)
        assert await client.device_state() == MigrationState.STOP


async def test_who_stops_early_leaves_the_connection_in_order(moving: MigratingDevice) -> None:
    moving.account.late = [DATA]
    async with in_state(moving, MigrationState.STOP_COPY) as client:
        pieces = client.state_pieces()
        assert bytes(await anext(pieces)) == DATA[:MOST]
        await pieces.aclose()
        await client.set_device_state(MigrationState.STOP)
        assert await client.device_state() == MigrationState.STOP


async def test_pieces_stay_as_they_were(moving: MigratingDevice) -> None:
    """They are views of where they were received; nothing else is received there."""
    moving.account.late = [DATA]
    async with in_state(moving, MigrationState.STOP_COPY) as client:
        pieces = [piece async for piece in client.state_pieces()]
    assert b"".join(pieces) == DATA
