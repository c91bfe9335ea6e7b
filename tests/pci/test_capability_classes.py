from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import vfuserver.pci.caps
from vfuserver.errors import DeclarationError
from vfuserver.pci import Capability, ConfigSpace, ExtendedCapability, Field, registered
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.vendor_specific import VendorSpecific


def test_registry_every_file_of_the_folder_declares_one_capability() -> None:
    folder = Path(vfuserver.pci.caps.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {one.__module__.rpartition(".")[2] for one in registered()} == files


def test_class_with_an_id_that_is_taken_refused_naming_both() -> None:
    with pytest.raises(DeclarationError, match="id 0x5 must have one class, not Msi and Another"):

        class Another(Capability, id=Msi.id):
            pass


@pytest.mark.parametrize("number", [0, 0x100])
def test_class_with_an_impossible_id_refused(number: int) -> None:
    with pytest.raises(DeclarationError, match="id of Impossible must be 1 to 0xff, not"):

        class Impossible(Capability, id=number):
            pass


def test_extended_class_with_an_impossible_version_refused() -> None:
    with pytest.raises(DeclarationError, match="version of Impossible must be 1 to 15, not 16"):

        class Impossible(ExtendedCapability, version=16):
            pass


def test_class_without_id_is_a_form_of_its_base_and_not_registered() -> None:
    class Named(VendorSpecific):
        def body(self) -> Sequence[Field]:
            return (Field("mode", 4, 1),)

    assert (Named.id, Named.repeatable, Named.extends) == (VendorSpecific.id, True, False)
    assert Named not in registered()
    assert Named().layout["mode"].offset == 4


def test_class_whose_registers_go_beyond_its_length_refused(make: Callable[..., ConfigSpace]) -> None:
    """S2.12: they would lie in its neighbour."""

    class Long(VendorSpecific):
        def body(self) -> Sequence[Field]:
            return (Field("mode", 4, 4),)

    assert make(Long(length=8)).capabilities[0].length == 8
    with pytest.raises(DeclarationError, match="Long: registers must end within 7 bytes, not 8"):
        make(Long(length=7))
