"""lspci of the machine on our own dumps. Looked for is what its versions 3.9 and 3.13 both say."""

from collections.abc import Callable

import pytest

from tests.lspci import COMPLAINTS, Lspci
from vfuserver.pci import BarLayout, ConfigSpace
from vfuserver.pci.caps.access_control import AccessControl
from vfuserver.pci.caps.address_translation import AddressTranslation
from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting, UncorrectableError
from vfuserver.pci.caps.advanced_features import AdvancedFeatures
from vfuserver.pci.caps.designated_vendor_specific import DesignatedVendorSpecific
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.latency_tolerance import LatencyTolerance
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.caps.page_request import PageRequest
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.caps.process_address_space import ProcessAddressSpace
from vfuserver.pci.caps.resizable_bar import BarSize, ResizableBar
from vfuserver.pci.caps.single_root_iov import SingleRootIov
from vfuserver.pci.caps.tph_requester import TphRequester, TphTable
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended
from vfuserver.pci.caps.vital_product_data import VitalProductData
from vfuserver.pci.error_report import report
from vfuserver.pci.lspci import render

Make = Callable[..., ConfigSpace]


def test_render_first_lines_are_lspci_s(make: Make) -> None:
    lines = render(make().image).splitlines()
    assert lines[:2] == [
        "00:00.0 Class ff00: Device 1234:7e57 (rev 01)",
        "00: 34 12 57 7e 00 00 00 00 01 00 00 ff 00 00 00 00",
    ]
    assert len(lines) == 1 + 16 + 1


def test_render_image_of_another_size_refused() -> None:
    with pytest.raises(ValueError, match="must have 64, 256 or 4096 bytes, not 100"):
        render(bytes(100))


def test_lspci_decodes_testdev_s_capabilities(make: Make, lspci: Lspci) -> None:
    """S2.11: every capability of testdev is seen by lspci."""
    config = make(
        PowerManagement(),
        Msi(4),
        MsiX(8, table_bar=4),
        PciExpress(flr=True),
        VendorSpecific(16),
        DeviceSerialNumber(0x0123456789ABCDEF),
        interrupt_pin=1,
    )
    for bar, address in ((0, 0xFE00_0000), (1, 0xFE00_1000), (2, 0xE000_0000), (4, 0xFE00_2000), (5, 0xC000)):
        config.write(0x10 + 4 * bar, 4, address)
    config.write(4, 2, 7)
    text = lspci(render(config.image), "-vvvnn")
    for line in (
        "Unassigned class [ff00]: Device [1234:7e57] (rev 01)",
        "Interrupt: pin A routed to IRQ 0",
        "Region 2: Memory at e0000000 (64-bit, prefetchable)",
        "Region 5: I/O ports at c000",
        "Capabilities: [40] Power Management version 3",
        "Status: D0 NoSoftRst- PME-Enable- DSel=0 DScale=0 PME-",
        "Capabilities: [48] MSI: Enable- Count=1/4 Maskable+ 64bit+",
        "Capabilities: [60] MSI-X: Enable- Count=8 Masked-",
        "Vector table: BAR=4 offset=00000000",
        "PBA: BAR=4 offset=00000800",
        "Capabilities: [6c] Express (v2) Endpoint, ",
        "FLReset+",
        "Speed 2.5GT/s, Width x1",
        "Capabilities: [a8] Vendor Specific Information: Len=10",
        "Capabilities: [100 v1] Device Serial Number 01-23-45-67-89-ab-cd-ef",
    ):
        assert line in text, text
    for complaint in COMPLAINTS:
        assert complaint not in text, text


def test_lspci_decodes_a_conventional_device(make: Make, lspci: Lspci) -> None:
    config = make(PowerManagement(), Msi(address64=False, maskable=False))
    text = lspci(render(config.image), "-vvvnn")
    assert "Maskable- 64bit-" in text
    assert "Express" not in text


def test_lspci_decodes_every_extended_capability(extended: Make, lspci: Lspci) -> None:
    """S2.11: what a model adds is seen, and decoded without complaint."""
    config = extended(
        AdvancedFeatures(),
        VitalProductData(),
        AdvancedErrorReporting(),
        VendorSpecificExtended(0x1234, 5, 32),
        DesignatedVendorSpecific(0x1234, 8, 1, 16),
        AccessControl(),
        LatencyTolerance(),
        AddressTranslation(),
        ProcessAddressSpace(),
        PageRequest(8),
        ResizableBar((BarSize(2, 1 << 20),)),
        SingleRootIov(8, 0x7E58, vf_bars=(BarLayout(0, 0x4000),)),
        TphRequester(table=TphTable.CAPABILITY, tags=4),
    )
    report(config, UncorrectableError.MALFORMED_TLP, b"\x12\x34")
    text = lspci(render(config.image), "-vvvnn")
    for line in (
        "PCI Advanced Features",
        "AFCap: TP+ FLR+",
        "Vital Product Data",
        "DevSta:	CorrErr- NonFatalErr- FatalErr+ UnsupReq-",
        "[100 v1] Advanced Error Reporting",
        "UESta:	DLP- SDES- TLP- FCP- CmpltTO- CmpltAbrt- UnxCmplt- RxOF- MalfTLP+",
        "UESvrt:	DLP+ SDES+ TLP- FCP+ CmpltTO- CmpltAbrt- UnxCmplt- RxOF+ MalfTLP+",
        "AERCap:	First Error Pointer: 12, ECRCGenCap+ ECRCGenEn- ECRCChkCap+ ECRCChkEn-",
        "HeaderLog: 12340000 00000000 00000000 00000000",
        "Vendor Specific Information: ID=1234 Rev=5 Len=020",
        "Designated Vendor-Specific: Vendor=1234 ID=0008 Rev=1 Len=16",
        "ACSCap:	SrcValid- TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd- EgressCtrl- DirectTrans+",
        "Latency Tolerance Reporting",
        "ATSCap:	Invalidate Queue Depth: 00",
        "Process Address Space ID (PASID)",
        "PASIDCap: Exec- Priv-, Max PASID Width: 14",
        "Page Request Interface (PRI)",
        "PRISta: RF- UPRGI- Stopped+",
        "Physical Resizable BAR",
        "BAR 2: current size: 1MB, supported: 1MB",
        "Single Root I/O Virtualization (SR-IOV)",
        "Initial VFs: 8, Total VFs: 8, Number of VFs: 0, Function Dependency Link: 00",
        "Transaction Processing Hints",
        "Steering table in TPH capability structure",
    ):
        assert line in text, text
    for complaint in COMPLAINTS:
        assert complaint not in text, text
