"""What lspci makes of a dump, held against what the capabilities in it declare.

`said_of` has one function per capability: the text that lspci must print of one with these values. A capability
without one fails every test here, and the failure says what to add.
"""

import re
from collections.abc import Iterable, Sequence
from functools import singledispatch

import pytest

from vfuserver.pci import AnyCapability, BarKind, ExtendedCapability, PowerState
from vfuserver.pci.caps.access_control import AccessControl, AcsService
from vfuserver.pci.caps.address_translation import DEEPEST_QUEUE, AddressTranslation
from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting
from vfuserver.pci.caps.advanced_features import AdvancedFeatures
from vfuserver.pci.caps.designated_vendor_specific import DesignatedVendorSpecific
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.latency_tolerance import LatencyTolerance
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.caps.page_request import PageRequest
from vfuserver.pci.caps.pci_express import PciExpress, PortType
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.caps.process_address_space import ProcessAddressSpace
from vfuserver.pci.caps.resizable_bar import ResizableBar
from vfuserver.pci.caps.single_root_iov import SingleRootIov
from vfuserver.pci.caps.tph_requester import TphRequester, TphTable
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended
from vfuserver.pci.caps.vital_product_data import VitalProductData

COMPLAINT = re.compile(
    r"<chain (?:broken|looped)>|<access denied>|<unreadable>|<unknown|\bunknown\b|\binvalid\b|Extended Capability ID"
    r"|Capability ID|\?|!!!|Not readable",
    re.IGNORECASE,
)

Text = Sequence[str]


def check_decoded(text: str, capabilities: Iterable[AnyCapability]) -> None:
    """Every capability is where it lies, with its values, and lspci complains of nothing."""
    header, *blocks = re.split(r"(?m)^\tCapabilities: ", text)
    assert not COMPLAINT.search(header), text
    meant = list(capabilities)
    assert len(blocks) == len(meant), text
    for one, block in zip(meant, blocks, strict=True):
        place = f"[{one.start:x} v{one.version}] " if isinstance(one, ExtendedCapability) else f"[{one.start:x}] "
        assert block.startswith(place), f"{one} at {one.start:#x}: {block}"
        for said in said_of(one):
            assert said in block, f"{one}: lspci must say {said!r}, not {block}"
        excused = EXCUSES.get(type(one))
        rest = block.replace(excused, "", 1) if excused else block
        assert not COMPLAINT.search(rest), f"{one}: lspci complains: {block}"


EXCUSES: dict[type[AnyCapability], str] = {
    VendorSpecific: " <?>",
    VendorSpecificExtended: " <?>",
    DesignatedVendorSpecific: " <?>",
    VitalProductData: "Not readable",
}
"""What lspci says of these whatever they hold: it knows no vendor's bytes, and reads VPD through sysfs alone."""


def flag(name: str, on: object) -> str:
    """As lspci shows a bit: Name+ or Name-."""
    return f"{name}{'+' if on else '-'}"


@singledispatch
def said_of(one: AnyCapability) -> Text:
    """What lspci must print of a capability."""
    pytest.fail(f"tests/pci/decoding.py must say what lspci prints of {type(one).__name__}: @said_of.register it")


@said_of.register
def _(one: PowerManagement) -> Text:
    pme = ",".join(flag(state, number in one.pme) for number, state in enumerate(("D0", "D1", "D2", "D3hot")))
    return (
        "Power Management version 3",
        f"{flag('D1', one.d1)} {flag('D2', one.d2)} AuxCurrent=0mA PME({pme},D3cold-)",
        f"Status: {PowerState.D0.name} {flag('NoSoftRst', one.no_soft_reset)} PME-Enable-",
    )


@said_of.register
def _(one: VitalProductData) -> Text:
    return ("Vital Product Data",)


@said_of.register
def _(one: Msi) -> Text:
    masks = ("Masking: 00000000  Pending: 00000000",) if one.maskable else ()
    found = f"Count=1/{one.vectors} {flag('Maskable', one.maskable)} {flag('64bit', one.address64)}"
    return (f"MSI: Enable- {found}", f"Address: {'0' * (16 if one.address64 else 8)}  Data: 0000", *masks)


@said_of.register
def _(one: VendorSpecific) -> Text:
    return (f"Vendor Specific Information: Len={one.length:02x}",)


@said_of.register
def _(one: PciExpress) -> Text:
    integrated = one.port_type is PortType.ROOT_COMPLEX_ENDPOINT
    link = () if integrated else ("LnkCap:\tPort #0, Speed 2.5GT/s, Width x1", "LnkSta:\tSpeed 2.5GT/s, Width x1")
    return (
        f"Express (v2) {'Root Complex Integrated ' if integrated else ''}Endpoint, ",
        flag("FLReset", one.flr),
        "MaxPayload 128 bytes, MaxReadReq 512 bytes",
        "DevSta:\tCorrErr- NonFatalErr- FatalErr- UnsupReq- AuxPwr- TransPend-",
        *link,
    )


@said_of.register
def _(one: MsiX) -> Text:
    return (
        f"MSI-X: Enable- Count={one.vectors} Masked-",
        f"Vector table: BAR={one.table_bar} offset={one.table_offset:08x}",
        f"PBA: BAR={one.pba_in} offset={one.pba_offset:08x}",
    )


@said_of.register
def _(one: AdvancedFeatures) -> Text:
    return ("PCI Advanced Features", f"AFCap: {flag('TP', one.flr)} {flag('FLR', one.flr)}", "AFCtrl: FLR-")


@said_of.register
def _(one: AdvancedErrorReporting) -> Text:
    ecrc = f"{flag('ECRCGenCap', one.ecrc)} ECRCGenEn- {flag('ECRCChkCap', one.ecrc)} ECRCChkEn-"
    return ("Advanced Error Reporting", f"AERCap:\tFirst Error Pointer: 00, {ecrc}", f"HeaderLog:{' 00000000' * 4}")


@said_of.register
def _(one: DeviceSerialNumber) -> Text:
    return (f"Device Serial Number {one.serial.to_bytes(8, 'big').hex('-')}",)


@said_of.register
def _(one: VendorSpecificExtended) -> Text:
    return (f"Vendor Specific Information: ID={one.vsec_id:04x} Rev={one.revision} Len={one.length:03x}",)


@said_of.register
def _(one: DesignatedVendorSpecific) -> Text:
    ident = f"Vendor={one.vendor:04x} ID={one.dvsec_id:04x}"
    return (f"Designated Vendor-Specific: {ident} Rev={one.revision} Len={one.length}",)


@said_of.register
def _(one: AccessControl) -> Text:
    shown = {
        "SrcValid": AcsService.SOURCE_VALIDATION,
        "TransBlk": AcsService.TRANSLATION_BLOCKING,
        "ReqRedir": AcsService.REQUEST_REDIRECT,
        "CmpltRedir": AcsService.COMPLETION_REDIRECT,
        "UpstreamFwd": AcsService.UPSTREAM_FORWARDING,
        "EgressCtrl": AcsService.EGRESS_CONTROL,
        "DirectTrans": AcsService.DIRECT_TRANSLATED,
    }
    services = " ".join(flag(name, bit in one.services) for name, bit in shown.items())
    return ("Access Control Services", f"ACSCap:\t{services}", f"ACSCtl:\t{' '.join(f'{name}-' for name in shown)}")


@said_of.register
def _(one: AddressTranslation) -> Text:
    return (
        "Address Translation Service (ATS)",
        f"ATSCap:\tInvalidate Queue Depth: {one.queue_depth % DEEPEST_QUEUE:02x}",
        "ATSCtl:\tEnable-",
    )


@said_of.register
def _(one: SingleRootIov) -> Text:
    seen = [bar for bar in one.vf_bars if bar.prefetchable or bar.kind is BarKind.MEMORY64]  # lspci hides zeros
    return (
        "Single Root I/O Virtualization (SR-IOV)",
        f"Initial VFs: {one.total_vfs}, Total VFs: {one.total_vfs}, Number of VFs: 0",
        f"Function Dependency Link: {one.dependency:02x}",
        f"VF offset: {one.first_offset}, stride: {one.stride}, Device ID: {one.vf_device:04x}",
        *(f"Region {bar.index}: Memory at " for bar in seen),
    )


@said_of.register
def _(one: PageRequest) -> Text:
    return ("Page Request Interface (PRI)", f"Page Request Capacity: {one.capacity:08x}", "PRICtl: Enable- Reset-")


@said_of.register
def _(one: ResizableBar) -> Text:
    sizes = [(bar.index, f"{bar.size >> 20}MB") for bar in one.bars]
    return ("Physical Resizable BAR", *(f"BAR {index}: current size: {mb}, supported: {mb}" for index, mb in sizes))


@said_of.register
def _(one: TphRequester) -> Text:
    modes = {
        "Interrupt vector mode supported": one.interrupt_vector,
        "Device specific mode supported": one.device_specific,
        "Extended requester support": one.extended,
    }
    table = {
        TphTable.NONE: "No steering table available",
        TphTable.CAPABILITY: "Steering table in TPH capability structure",
        TphTable.MSI_X: "Steering table in MSI-X table",
    }
    return ("Transaction Processing Hints", *(text for text, on in modes.items() if on), table[one.table])


@said_of.register
def _(one: LatencyTolerance) -> Text:
    return ("Latency Tolerance Reporting", "Max snoop latency: 0ns", "Max no snoop latency: 0ns")


@said_of.register
def _(one: ProcessAddressSpace) -> Text:
    modes = f"{flag('Exec', one.execute)} {flag('Priv', one.privileged)}"
    return ("Process Address Space ID (PASID)", f"PASIDCap: {modes}, Max PASID Width: {one.width:02x}")
