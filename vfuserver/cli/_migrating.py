"""One device from one server to another with as short a pause as it can be: pre-copy in rounds, then the rest.

The order on failure: the destination is reset first, then the source goes on; so never do both run. It must not know
how it is shown.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from vfuserver.cli._mirror import Mirror
from vfuserver.cli._moving import (
    Advance,
    End,
    go_on,
    going_on_after_failure,
    log,
    pieces,
    refusing,
    reset_on_failure,
    saying,
    start_resuming,
    stop_and_copy,
)
from vfuserver.errors import CommandError, VfuserverError
from vfuserver.vfio import MigrationFlags, MigrationState

QUIET: Final = 256 << 10
"""Bytes that a round of pre-copy may have moved for the next one to be the last, with the device stopped."""
ROUND: Final = 64 << 20
"""Bytes of state that a round takes at most from a server that does not say how many there are."""
TRY_WITHOUT: Final = "; perhaps the source's stream does not continue after pre-copy: try --no-pre-copy"


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of pre-copy has moved, in bytes, and how many seconds it took."""

    state_bytes: int
    memory_bytes: int
    seconds: float


@dataclass(slots=True)
class Moved:
    """What a migration has moved, in bytes, and the seconds for which neither device ran."""

    state_bytes: int = 0
    memory_bytes: int = 0
    memory_logged: bool = False
    rounds: int = 0
    """Of pre-copy."""
    per_round: list[Round] = field(default_factory=list)
    blackout: float = 0.0


class Move:
    """One move of one device. `rounds` of pre-copy at most; 0: the device stops at once."""

    def __init__(self, source: End, destination: End, *, rounds: int, mirror: Mirror | None, advance: Advance) -> None:
        self.source, self.destination, self.mirror, self.advance = source, destination, mirror, advance
        runs = source.state == MigrationState.RUNNING  # pre-copy would start one that is stopped
        self.rounds = rounds if runs and source.flags & MigrationFlags.PRE_COPY else 0
        self.moved = Moved()

    async def run(self) -> Moved:
        """Moves it; afterwards the source is stopped and the destination is in the state that the source was in.

        VfuserverError: it did not work; the source does what it did before, the destination is reset.
        """
        source, destination = self.source, self.destination
        destination.must_be_like(source.shape, source.name)
        async with going_on_after_failure(source, destination), reset_on_failure(destination):
            if self.mirror:
                with saying("memory cannot be mapped on both sides"):
                    await self.mirror.map()
                self.moved.memory_logged = self.mirror.logs
            await start_resuming(destination)
            if self.rounds:
                await self._pre_copy()
            started = time.monotonic()
            await self._stop_and_copy()
            await go_on(destination, source.state)
            self.moved.blackout = time.monotonic() - started
        await self._put_away()
        return self.moved

    async def _pre_copy(self) -> None:
        with saying(f"{self.source.name} cannot begin pre-copy"):
            await self.source.client.set_device_state(MigrationState.PRE_COPY)
        carried = QUIET + 1
        while carried > QUIET and self.moved.rounds < self.rounds:
            self.moved.rounds += 1
            started = time.monotonic()
            state, memory = await self._round(), await self._carry()
            self.moved.per_round.append(Round(state, memory, time.monotonic() - started))
            carried = state + memory

    async def _round(self) -> int:
        """As much state as there is now, but not what comes while it is taken."""
        most, taken = await self._expected(), 0
        async with pieces(self.source, most) as state:
            async for piece in state:
                await self._give(piece)
                taken += len(piece)
        return taken

    async def _expected(self) -> int:
        try:
            return sum(await self.source.client.precopy_info())
        except CommandError:
            return ROUND

    async def _stop_and_copy(self) -> None:
        await stop_and_copy(self.source)
        async with pieces(self.source) as state:
            async for piece in state:
                await self._give(piece)
        await self._carry()
        with self._refusing():
            await self.destination.client.set_device_state(MigrationState.STOP)

    async def _give(self, piece: memoryview) -> None:
        with self._refusing():
            await self.destination.client.write_state(piece)
        self.moved.state_bytes += len(piece)
        self.advance(len(piece))

    def _refusing(self) -> AbstractContextManager[None]:
        return refusing(self.destination, TRY_WITHOUT if self.rounds else "")

    async def _carry(self) -> int:
        with saying(f"{self.source.name} does not tell what its device has written"):
            carried = await self.mirror.carry() if self.mirror else 0
        self.moved.memory_bytes += carried
        return carried

    async def _put_away(self) -> None:
        """The other one runs already: what the source says to this changes nothing."""
        try:
            await self.source.client.set_device_state(MigrationState.STOP)
        except VfuserverError as error:
            log.warning("%s was moved, but does not go from STOP_COPY to STOP: %s", self.source.name, error)
