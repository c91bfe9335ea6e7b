"""Eventfds: signalling never blocks."""

import os

import pytest

from vfuserver import _core


def test_signal_adds_one_and_never_blocks_on_a_full_counter() -> None:
    fd = os.eventfd(0)
    assert _core.signal(fd)
    assert os.eventfd_read(fd) == 1
    os.eventfd_write(fd, 2**64 - 2)
    assert not _core.signal(fd)
    os.close(fd)


def test_only_an_eventfd_is_one() -> None:
    pipe, memfd, event = os.pipe(), os.memfd_create("x"), os.eventfd(0, os.EFD_SEMAPHORE)
    assert [_core.is_eventfd(fd) for fd in (*pipe, memfd, event)] == [False, False, False, True]
    for fd in (*pipe, memfd, event):
        os.close(fd)
    assert not _core.is_eventfd(event)


def test_signal_of_a_closed_descriptor_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.signal(1000)
