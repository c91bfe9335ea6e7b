"""The client's memory as devices see it. Re-exports only.

It must not know sessions, commands or devices.
"""

from vfuserver.iommu.access import Access, MessagePort
from vfuserver.iommu.area import AreaAccess

__all__ = ["Access", "AreaAccess", "MessagePort"]
