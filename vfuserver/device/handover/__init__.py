"""Handing a device over to another process on this machine, which goes on with it without its client's noticing.

What travels is plain data (`taking.CARRIED` is its shape): the parts of a migration stream, each as its bytes, memory
that lies in no file, and what a stream leaves out because it belongs to the host: the files of BARs and the eventfds
of doorbells as Descriptors, the migration that is under way, counters. Beside it stands what the client has seen of the
device (`seen`), so that a device that would look otherwise says everything that differs. Memory in files is not copied:
it goes on being the same memory.

It must not know who carries the data, nor sessions.
"""

from vfuserver.device.handover.giving import check_portable, hand_over
from vfuserver.device.handover.taking import take_over

__all__ = ["check_portable", "hand_over", "take_over"]
