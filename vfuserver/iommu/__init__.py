"""The client's memory as devices see it. Re-exports only.

It must not know sessions, commands or devices.
"""

from vfuserver.iommu.access import Access
from vfuserver.iommu.area import AreaAccess
from vfuserver.iommu.comparison import MessagePort
from vfuserver.iommu.context import CONTEXT, Context, Kind
from vfuserver.iommu.pieces import Pieces
from vfuserver.iommu.views import OnRevoke, View

__all__ = ["CONTEXT", "Access", "AreaAccess", "Context", "Kind", "MessagePort", "OnRevoke", "Pieces", "View"]
