"""A progress bar on stderr, where somebody looks at it. It must not know what progresses."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of about `total` bytes, and what is told of every so many of them. Nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=max(1, total), label=label, file=sys.stderr, show_percent=True) as bar:

        def advance(count: int) -> None:
            if bar.length is not None and bar.pos + count > bar.length:  # it was an estimate
                bar.length = bar.pos + count
            bar.update(count)

        yield advance
