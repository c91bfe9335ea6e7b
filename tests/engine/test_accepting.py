"""Accepting when descriptors run out."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.conftest import Serve, raw
from vfuserver.client import Client


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_client_that_came_while_there_was_no_descriptor_is_served_later(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    path = serve("pvpanic")
    waiting = raw(path)
    with no_more_descriptors():
        while "pvpanic: cannot accept a client: Too many open files" not in caplog.text:
            await asyncio.sleep(0)
    waiting.setblocking(False)
    async with Client(waiting) as client:
        await client.negotiate()
        assert (await client.device_info()).num_regions == 9
    assert caplog.text.count("cannot accept") == 1
