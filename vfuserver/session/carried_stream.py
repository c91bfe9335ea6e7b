"""A stream's unread and unsent bytes as plain data, with the descriptors that lie between them.

It must not know sessions: both streams of a connection are carried alike.
"""

from collections.abc import Sequence
from typing import Any

from vfuserver._core import Stream
from vfuserver.plain import Descriptor


def carry_stream(stream: Stream) -> list[Any]:
    """What waits in a stream that serves nothing at the moment."""
    rx, rx_fds, tx, tx_fds = stream.carry()
    return [rx, _lent(rx_fds), tx, _lent(tx_fds)]


def adopted_stream(carried: Sequence[Any]) -> tuple[bytes, list[tuple[int, int]], bytes, list[tuple[int, int]]]:
    """The arguments of Stream.adopt()."""
    rx, rx_fds, tx, tx_fds = carried
    return rx, _numbers(rx_fds), tx, _numbers(tx_fds)


def _lent(fds: Sequence[tuple[int, int]]) -> list[Any]:
    return [[at, Descriptor(fd)] for at, fd in fds]


def _numbers(lent: Sequence[Any]) -> list[tuple[int, int]]:
    return [(at, descriptor.fd) for at, descriptor in lent]
