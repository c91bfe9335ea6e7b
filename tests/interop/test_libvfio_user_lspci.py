"""What libvfio-user's sample `lspci` dumps, and what we make of the same capabilities, by lspci.

The sample leaves versions, the link and whatever it does not set at zero, so what is compared is what it does set.
"""

import re
import subprocess
from pathlib import Path

from tests.interop.cells import SPACE
from tests.interop.samples import of_each_version
from tests.lspci import Lspci
from vfuserver import PciDevice, PciIdentity
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended
from vfuserver.pci.lspci import render
from vfuserver.testing.local_client import LocalClient

ZERO_IN_THE_SAMPLE = re.compile(r"version \d|Express \(v\d\)|\[(\w+) v\d\]")
SET = re.compile(r"^\s+(Capabilities: .*|Flags: .*PME.*|Status: D0.*)$", re.MULTILINE)


class LikeTheSample(PciDevice):
    """The capabilities of the sample, where it has them."""

    identity = PciIdentity(vendor=0, device=0, class_code=0)
    capabilities = (
        PowerManagement(no_soft_reset=True, at=0x40),
        VendorSpecific(0x10, initial=b"abcdefgh", at=0x48),
        PciExpress(flr=True, at=0x58),
        DeviceSerialNumber(0xCAFEBABE_DEADBEEF),
        VendorSpecificExtended(1, 1, 0x15),
        VendorSpecificExtended(2, 2, 0x15, at=0x400),
    )


def said_of_capabilities(text: str) -> list[str]:
    """What the sample sets, as lspci says it."""
    assert re.search(r"DevCap:.*\n.*FLReset\+", text)
    return [ZERO_IN_THE_SAMPLE.sub(r"[\1]", line).strip() for line in SET.findall(text)]


@of_each_version(SPACE, "libvfio-user's sample lspci", "the same six capabilities, decoded by lspci")
def test_lspci_says_the_same_of_the_samples_dump_and_of_our_device(lspci: Lspci, samples: str) -> None:
    """S2.9, S2.25, S2.28."""
    dump = subprocess.run([Path(samples) / "lspci"], capture_output=True, text=True, check=True, timeout=10).stdout
    device = LikeTheSample()
    with LocalClient(device) as client:
        space = client.read_config(0, 4096)
    device.close()
    theirs, ours = (said_of_capabilities(lspci(text, "-vvv")) for text in (dump, render(space)))
    assert theirs == ours
    assert len([line for line in ours if line.startswith("Capabilities")]) == 6
