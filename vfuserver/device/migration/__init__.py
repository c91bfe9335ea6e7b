"""A device's side of migration: what is saved, the stream that it is saved in, and the arcs of `vfio.Migration`.

From what a device class declares follows what is in its stream (`parts`, `memory`); `stream` knows how it is laid out
and nothing of devices, `encoding` how a value is written. Nothing here knows sessions or messages.
"""

from vfuserver.device.migration.machine import DeviceMigration

__all__ = ["DeviceMigration"]
