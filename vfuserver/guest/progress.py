"""Progress of something long on stderr: a bar on a terminal, a plain line now and then elsewhere.

It never touches stdout, which belongs to results. It knows nothing of what progresses.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

_PLAIN_INTERVAL = 5.0


class Progress(Protocol):
    """What the long work calls: `percent` (0 to 100) and, if there is something to say, a few words."""

    def __call__(self, percent: float, words: str = "") -> None:
        """Show this state."""


class _PlainLines:
    """One line at the start, at most one every few seconds, one at the end."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._last = time.monotonic()
        self._say("starting")

    def __call__(self, percent: float, words: str = "") -> None:
        now = time.monotonic()
        if now - self._last >= _PLAIN_INTERVAL:
            self._last = now
            self._say(f"{percent:.0f} % {words}".rstrip())

    def _say(self, text: str) -> None:
        print(f"vfuserver: {self._label}: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Show progress under `label` while the block runs."""
    if not sys.stderr.isatty():
        lines = _PlainLines(label)
        yield lines
        lines._say("done")
        return
    with click.progressbar(length=1000, label=label, file=sys.stderr, show_eta=False, item_show_func=str) as bar:

        def show(percent: float, words: str = "") -> None:
            bar.update(max(0, round(percent * 10) - bar.pos), words or " ")

        show(0)
        yield show
        show(100)
