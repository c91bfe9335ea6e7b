"""Work that must be undone when somebody ends it: SIGTERM and a closed terminal cancel it, as Ctrl-C does.

It must not know what the work is.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

T = TypeVar("T")
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""asyncio itself sees to SIGINT."""


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end. click.Abort: a signal has cancelled it, and it has undone what it did."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in ENDING:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise click.Abort from None
