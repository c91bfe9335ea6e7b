"""DMA messages, for the tests about the client's memory."""

import asyncio
from collections.abc import Awaitable

import pytest

from tests.session.harness import Message, Wire, command
from vfuserver.errors import DmaError

PAGE = 0x1000
MAP, UNMAP, READ, WRITE = command(2), command(3), command(11), command(12)


def map_(wire: Wire, address: int, size: int, flags: int = 3, fds: tuple[int, ...] = ()) -> None:
    assert not wire.ask(MAP, MAP.request.pack(32, flags, 0, address, size), fds).errno


async def start(work: Awaitable[object]) -> "asyncio.Task[object]":
    """Lets `work` run up to its first wait."""

    async def run() -> object:
        return await work

    task = asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def failure(task: "asyncio.Task[object]") -> int:
    with pytest.raises(DmaError) as caught:
        await asyncio.wait_for(task, 1)
    return caught.value.errno


def asked(message: Message) -> tuple[int, int, int]:
    """(command, address, count) of a DMA message."""
    address, count = READ.request.unpack(message.payload)
    return message.header.command, address, count


def read_reply(message: Message, data: bytes) -> bytes:
    return READ.reply.build(address=asked(message)[1], data=data)
