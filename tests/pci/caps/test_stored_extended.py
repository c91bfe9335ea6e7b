"""The extended capabilities whose registers are stored and nothing more: what all ones leave behind."""

from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import BarKind, BarLayout, ConfigSpace, ExtendedCapability
from vfuserver.pci.caps.access_control import AccessControl, AcsService
from vfuserver.pci.caps.address_translation import AddressTranslation
from vfuserver.pci.caps.latency_tolerance import LatencyTolerance
from vfuserver.pci.caps.page_request import PageRequest
from vfuserver.pci.caps.process_address_space import ProcessAddressSpace
from vfuserver.pci.caps.resizable_bar import BarSize, ResizableBar
from vfuserver.pci.caps.single_root_iov import SingleRootIov
from vfuserver.pci.caps.tph_requester import TphRequester, TphTable

Make = Callable[..., ConfigSpace]

VF_BARS = (BarLayout(0, 0x4000), BarLayout(2, 0x4000, BarKind.MEMORY64, prefetchable=True))
EGRESS = AcsService.EGRESS_CONTROL

ALL_ONES = [
    (LatencyTolerance(), "18000100 ff1fff1f"),
    (AccessControl(), "0d000100 4c004c00"),
    (AccessControl(EGRESS, egress=33), "0d000100 20212000 ffffffff 01000000"),
    (AddressTranslation(), "0f000100 20001f80"),
    (AddressTranslation(3, page_aligned=False, global_invalidate=True), "0f000100 43001f80"),
    (ProcessAddressSpace(), "1b000100 00140100"),
    (ProcessAddressSpace(16, execute=True, privileged=True), "1b000100 06100700"),
    (PageRequest(8, pasid_required=True), "13000100 01000080 08000000 ffffffff"),
    (ResizableBar((BarSize(2, 1 << 20),)), "15000100 10000000 22000000"),
    (TphRequester(), "17000100 01000000 07010000"),
    (
        TphRequester(True, extended=True, table=TphTable.CAPABILITY, tags=3),
        "17000100 03030200 07030000 ffffffff ffff",
    ),
    (TphRequester(True, table=TphTable.MSI_X, tags=2048), "17000100 0304ff07 07010000"),
    (
        SingleRootIov(8, 0x7E58, 1, 2, VF_BARS),
        "10000100 00000000 08000000 08000800 ffff0000 01000200 0000587e 53050000 53050000"
        "00c0ffff 00000000 0cc0ffff ffffffff 00000000 00000000 00000000",
    ),
]


@pytest.mark.parametrize(("declared", "expected"), ALL_ONES, ids=lambda case: str(case)[:40])
def test_extended_all_ones_leaves_writable_bits(extended: Make, declared: ExtendedCapability, expected: str) -> None:
    """S2.9, S2.27: the computed length; what is not listed as writable is read-only."""
    config = extended(declared)
    config.access(0x100, declared.length, b"\xff" * declared.length)
    assert config.access(0x100, declared.length, None) == bytes.fromhex(expected)


def test_page_request_stopped_follows_enable(extended: Make) -> None:
    config = extended(PageRequest())
    stopped = []
    for control in (0, 1, 2):
        config.write(0x104, 2, control)
        stopped.append(config.read(0x106, 2))
    assert stopped == [0x100, 0, 0x100]


def test_page_request_errors_cleared_by_one(extended: Make) -> None:
    config = extended(PageRequest())
    live = config.find(PageRequest)
    assert live is not None
    live.set_bits("status", 0x3, True)
    config.write(0x106, 2, 0x1)
    assert config.read(0x106, 2) == 0x102


def test_single_root_iov_vf_enable_reads_zero(extended: Make) -> None:
    """Declared, not served: no virtual function ever appears."""
    config = extended(SingleRootIov(8))
    config.write(0x110, 2, 4)
    config.write(0x108, 2, 0x9)
    assert (config.read(0x110, 2), config.read(0x108, 2)) == (4, 0x8)


def test_resizable_bar_of_another_size_refused(extended: Make) -> None:
    with pytest.raises(DeclarationError, match="BAR2 must be a memory BAR of 0x200000 bytes, not of 0x100000"):
        extended(ResizableBar((BarSize(2, 2 << 20),)))
    with pytest.raises(DeclarationError, match="BAR3 must be a memory BAR of 0x100000 bytes, not of 0x0"):
        extended(ResizableBar((BarSize(3, 1 << 20),)))


def test_access_control_vector_and_service_belong_together() -> None:
    for services, egress in ((EGRESS, 0), (AcsService.REQUEST_REDIRECT, 8)):
        with pytest.raises(DeclarationError, match="egress must be 1 to 255 with EGRESS_CONTROL and 0 without"):
            AccessControl(services, egress)


@pytest.mark.parametrize(("table", "tags"), [(TphTable.NONE, 1), (TphTable.CAPABILITY, 65), (TphTable.MSI_X, 0)])
def test_tph_table_of_an_impossible_size_refused(table: TphTable, tags: int) -> None:
    with pytest.raises(DeclarationError, match="tags must be"):
        TphRequester(table=table, tags=tags)
