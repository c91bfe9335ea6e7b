"""How the bytes of an area are reached: the core's numbers with names, for whoever makes or shows areas."""

from enum import IntFlag

from vfuserver import _core


class AreaAccess(IntFlag):
    """One way for an area that exists; several for one that is asked for, of which the first possible is taken."""

    MESSAGES = _core.ACCESS_MESSAGES
    """Not here: DMA_READ and DMA_WRITE."""
    MAPPED = _core.ACCESS_MAPPED
    """The client's file is mapped."""
    FILE = _core.ACCESS_FILE
    """By pread and pwrite on the client's descriptor: a file that cannot or must not be mapped."""
