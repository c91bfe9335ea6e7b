"""Lists of pieces of memory, (iova, length) in bytes: cut into runs, laid over a buffer, done side by side.

It must not know how memory is reached.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

Pieces: TypeAlias = Sequence[tuple[int, int]]
"""Pieces of memory in the order in which their bytes follow each other."""
T = TypeVar("T")


def total(pieces: Iterable[tuple[int, int]]) -> int:
    """How many bytes they have."""
    return sum(length for _, length in pieces)


def runs(pieces: Iterable[tuple[int, int]], limit: int) -> Iterator[list[tuple[int, int]]]:
    """The same bytes as lists of at most `limit` bytes each."""
    run: list[tuple[int, int]] = []
    room = limit
    for start, size in pieces:
        iova, length = start, size
        while length:
            count = min(length, room)
            run.append((iova, count))
            iova, length, room = iova + count, length - count, room - count
            if not room:
                yield run
                run, room = [], limit
    if run:
        yield run


def laid_over(pieces: Iterable[tuple[int, int]], data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Each piece's iova and its bytes of `data`, of which there may be fewer than the pieces have."""
    at = 0
    for iova, length in pieces:
        part = data[at : at + length]
        at += length
        if part:
            yield iova, part


async def side_by_side(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Awaits all of them, begun in order, and gives their results; the first that fails, or the end of the caller,
    ends the others."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_seen)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION) if tasks else ((), ())
        for task in done:
            task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()


def _seen(task: "asyncio.Task[Any]") -> None:
    """Two pieces may fail: the second error is nobody's news."""
    if not task.cancelled():
        task.exception()
