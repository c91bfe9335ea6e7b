"""A device's state out of one server and into another: what is asked in which order, and what is undone on failure.

Whatever ends a move half-way, Ctrl-C included: the source goes back to the state it was found in, the destination is
reset. Each of these is said in the log. It must not know files, nor what the state means.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfuserver.cli._probing import ask, connected
from vfuserver.cli._shape import Shape, differences, shape
from vfuserver.client import Client
from vfuserver.errors import CommandError, PeerError, VfuserverError
from vfuserver.vfio import MigrationFlags, MigrationState

log = logging.getLogger("vfuserver.cli")

AT_REST: Final = (MigrationState.RUNNING, MigrationState.STOP)
Advance = Callable[[int], None]
"""Told of every so many bytes of state."""


@dataclass(slots=True)
class End:
    """One server of a move, as it was found: its client, its shape, what it can and the state it was in."""

    client: Client
    name: str
    shape: Shape
    flags: MigrationFlags
    state: MigrationState
    may_run: bool = False
    """A destination that was told to run and has not been reset since."""

    def must_be_like(self, expected: Shape, whose: str) -> None:
        """VfuserverError with all that differs: it cannot take the state of such a device."""
        if found := differences(expected, self.shape):
            raise VfuserverError(f"{self.name} is another device than {whose}: {'; '.join(found)}")


@asynccontextmanager
async def source_at(path: Path, timeout: float) -> AsyncIterator[End]:
    """The server whose state is wanted. VfuserverError: it does not migrate, or is at something else."""
    async with connected(path, timeout) as client:
        end = await _look(client, path)
        if end.state not in AT_REST:
            raise VfuserverError(f"{path}: the device is in state {end.state.name}, must be RUNNING or STOP")
        yield end


@asynccontextmanager
async def destination_at(path: Path, timeout: float) -> AsyncIterator[End]:
    """The server whose state will be replaced; what an earlier move has left half-done is reset."""
    async with connected(path, timeout) as client:
        end = await _look(client, path)
        if end.state not in AT_REST:
            await client.reset()
        yield end


async def _look(client: Client, path: Path) -> End:
    try:
        flags = await client.migration_flags()
    except CommandError as error:
        raise VfuserverError(f"{path}: this server does not migrate its device ({error})") from error
    with saying(f"{path}: what it serves cannot be told"):
        return End(client, str(path), shape(await ask(client, path)), flags, await client.device_state())


async def size_of(source: End) -> int:
    """About how many bytes its state has; 0: its server does not say."""
    try:
        return await source.client.data_size()
    except CommandError:
        return 0


async def save(source: End, write: Callable[[memoryview], None]) -> None:
    """All of the state, piece by piece, while the device is stopped, which it is afterwards too."""
    await stop_and_copy(source)
    async with pieces(source) as state:
        async for piece in state:
            write(piece)
    with saying(f"{source.name} cannot go from STOP_COPY to STOP"):
        await source.client.set_device_state(MigrationState.STOP)


@asynccontextmanager
async def pieces(source: End, most: int | None = None) -> AsyncIterator[AsyncIterator[memoryview]]:
    """The state that there is now, in pieces; at most `most` bytes of it. VfuserverError names the source."""

    async def named() -> AsyncGenerator[memoryview, None]:
        with saying(f"{source.name} does not give its state"):
            async for piece in source.client.state_pieces(most):
                yield piece

    async with aclosing(named()) as state:
        yield state


async def stop_and_copy(source: End) -> None:
    """The device is stopped and its state, or what is left of it, can be read."""
    with saying(f"{source.name} cannot stop and be copied"):
        await source.client.set_device_state(MigrationState.STOP_COPY)


async def load(destination: End, chunks: Iterable[bytes], state: MigrationState, advance: Advance) -> None:
    """Puts state in and lets the device go on in `state`. VfuserverError: it was refused, and the device is reset."""
    async with reset_on_failure(destination):
        await start_resuming(destination)
        with refusing(destination):
            for chunk in chunks:
                await destination.client.write_state(chunk)
                advance(len(chunk))
            await destination.client.set_device_state(MigrationState.STOP)
        await go_on(destination, state)


async def start_resuming(destination: End) -> None:
    """The device is ready to take state."""
    with saying(f"{destination.name} cannot take state"):
        await destination.client.set_device_state(MigrationState.RESUMING)


async def go_on(end: End, state: MigrationState) -> None:
    """From STOP to `state`, in which the device was before, or where it was saved."""
    end.may_run = True
    with saying(f"{end.name} cannot go on in state {state.name}"):
        await end.client.set_device_state(state)


@asynccontextmanager
async def going_on_after_failure(source: End, destination: End | None = None) -> AsyncIterator[None]:
    """A source does what it did before if the block does not come to its end, and nobody else may be doing it."""
    try:
        yield
    except BaseException:
        if destination and destination.may_run:
            log.warning("%s was left stopped: it is not known whether %s runs", source.name, destination.name)
        else:
            await _go_back(source)
        raise


async def _go_back(source: End) -> None:
    try:
        await source.client.set_device_state(source.state)
    except VfuserverError as error:
        log.warning("%s could not go back to state %s: %s", source.name, source.state.name, error)
    else:
        log.warning("%s is %s again", source.name, source.state.name)


@asynccontextmanager
async def reset_on_failure(destination: End) -> AsyncIterator[None]:
    """A destination is reset if the block does not come to its end: half a state never runs."""
    try:
        yield
    except BaseException:
        try:
            await destination.client.reset()
        except VfuserverError as error:
            log.warning("%s could not be reset: %s", destination.name, error)
            destination.may_run = destination.may_run and await _may_run(destination)
        else:
            destination.may_run = False
            log.warning("%s was reset", destination.name)
        raise


async def _may_run(end: End) -> bool:
    """Whether it does, or nobody knows: libvfio-user refuses to reset a device that is stopped."""
    try:
        return await end.client.device_state() not in (MigrationState.ERROR, MigrationState.STOP)
    except VfuserverError:
        return True


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Puts what could not be done before the server's own words, or before how its connection ended."""
    try:
        yield
    except (CommandError, PeerError) as error:
        raise VfuserverError(f"{what}: {error}") from error


@contextmanager
def refusing(destination: End, hint: str = "") -> Iterator[None]:
    """What a refusal of the stream is called, wherever in it that happens."""
    with saying(f"{destination.name} does not take the state"):
        try:
            yield
        except CommandError as error:
            text = f"{destination.name} refuses the state (its server's log may say why{hint}): {error}"
            raise VfuserverError(text) from error
