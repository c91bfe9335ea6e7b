"""Counting descriptors and mappings, so that a test can show that it lost none."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


def _mappings() -> Counter[str]:
    """Mappings of memfds: guest memory and BARs. Libraries may map what they like."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Counter(line.split(maxsplit=5)[5] for line in lines if "/memfd:" in line)


def _leaked(fds: dict[str, str], maps: Counter[str]) -> list[str]:
    """What there is now and was not before."""
    new = [f"descriptor {fd} -> {what}" for fd, what in _descriptors().items() if fds.get(fd) != what]
    return new + [f"mapping of {what}" for what in (_mappings() - maps).elements()]


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Every descriptor and every memfd mapping that is made inside is gone at the end."""
    fds, maps = _descriptors(), _mappings()
    yield
    if _leaked(fds, maps):
        gc.collect()  # what only a cycle keeps alive is not lost; collecting after every test would be slow
        assert not _leaked(fds, maps)
