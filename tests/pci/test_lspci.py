"""Dumps for lspci, and what it decodes of every capability there is; a new file of `pci/caps` is covered here, too.

Looked for is what its versions 3.9 and 3.13 both say.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.contract.test_capabilities import VARIANTS, space_with
from tests.lspci import Lspci
from tests.pci.conftest import Events
from tests.pci.decoding import check_decoded, said_of
from tests.pci.one_of_each import OneOfEach, typical
from vfuserver import PciDevice, load
from vfuserver.pci import AnyCapability, BarLayout, Capability, ConfigSpace, Field, registered
from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting, UncorrectableError
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.error_report import report
from vfuserver.pci.lspci import render

Make = Callable[..., ConfigSpace]


@pytest.fixture
def testdev() -> Iterator[PciDevice]:
    made = load("testdev")()
    yield made
    made.close()


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


def test_lspci_decodes_testdev(testdev: PciDevice, lspci: Lspci) -> None:
    """S2.11: every capability of testdev is seen with the values that it declares, and so are its BARs."""
    config = testdev.config
    for bar, address in ((0, 0xFE00_0000), (1, 0xFE00_1000), (2, 0xE000_0000), (4, 0xFE00_2000), (5, 0xC000)):
        config.write(0x10 + 4 * bar, 4, address)
    config.write(4, 2, 7)
    text = lspci(render(config.image), "-vvvnn")
    check_decoded(text, config.capabilities)
    for line in (
        "Unassigned class [ff00]: Device [1234:7e57] (rev 01)",
        "Interrupt: pin A routed to IRQ 0",
        "Region 2: Memory at e0000000 (64-bit, prefetchable)",
        "Region 5: I/O ports at c000",
    ):
        assert line in text


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_lspci_decodes_every_layout_of_every_capability(variant: AnyCapability, lspci: Lspci) -> None:
    """S2.11: lspci finds each one where it lies, with the values that it declares, and complains of nothing."""
    config, _ = space_with(variant)
    check_decoded(lspci(render(config.image), "-vvvnn"), config.capabilities)


def test_lspci_decodes_a_device_with_one_of_each(lspci: Lspci) -> None:
    """S2.8, S2.11, S2.25: both lists as long as they can be, without a complaint; DevCap2 says what follows."""
    device = OneOfEach()
    assert len(device.config.capabilities) == len(registered())
    text = lspci(render(device.config.image), "-vvvnn")
    check_decoded(text, device.config.capabilities)
    assert " LTR+" in text
    assert "EETLPPrefix+, MaxEETLPPrefixes 1" in text
    device.close()


def test_lspci_decodes_a_conventional_device(make: Make, lspci: Lspci) -> None:
    config = make(PowerManagement(), Msi(address64=False, maskable=False))
    check_decoded(lspci(render(config.image), "-vvvnn"), config.capabilities)


def test_lspci_shows_a_reported_error(extended: Make, events: Events, lspci: Lspci) -> None:
    """S2.27: status, first error and the header of the packet."""
    config = extended(AdvancedErrorReporting())
    report(config, UncorrectableError.MALFORMED_TLP, b"\x12\x34")
    text = lspci(render(config.image), "-vvvnn")
    for line in (
        "DevSta:\tCorrErr- NonFatalErr- FatalErr+ UnsupReq-",
        "UESta:\tDLP- SDES- TLP- FCP- CmpltTO- CmpltAbrt- UnxCmplt- RxOF- MalfTLP+",
        "UESvrt:\tDLP+ SDES+ TLP- FCP+ CmpltTO- CmpltAbrt- UnxCmplt- RxOF+ MalfTLP+",
        "AERCap:\tFirst Error Pointer: 12, ECRCGenCap+ ECRCGenEn- ECRCChkCap+ ECRCChkEn-",
        "HeaderLog: 12340000 00000000 00000000 00000000",
    ):
        assert line in text, text


@pytest.mark.parametrize("damage", ["<chain broken>", "Len=00", "!!!"])
def test_complaints_are_noticed(make: Make, lspci: Lspci, damage: str) -> None:
    """The check itself: a list that is cut, a length that lies, a header type that is none."""
    config = make(*typical(), bars=[BarLayout(index, 1 << 20) for index in range(6)])
    image = bytearray(config.image)
    first = config.capabilities[0].start
    image[first + 1] = image[first + 1] if damage != "<chain broken>" else 0xFF
    if damage == "Len=00":
        at = next(one.start for one in config.capabilities if one.id == 9)
        image[at + 2] = 0
    if damage == "!!!":
        image[0x0E] = 0x7F
    text = lspci(render(bytes(image)), "-vvvnn")
    with pytest.raises(AssertionError):
        check_decoded(text, config.capabilities)


def test_capability_that_nobody_described_says_what_to_declare() -> None:
    @dataclass(frozen=True)
    class Stranger(Capability):
        """Has an id and nothing that lspci was said to print."""

        id = 0x70

        def body(self) -> tuple[Field, ...]:
            return ()

    with pytest.raises(pytest.fail.Exception, match="must say what lspci prints of Stranger"):
        said_of(Stranger())
