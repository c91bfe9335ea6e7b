import json
from collections.abc import Callable
from dataclasses import asdict

from vfuserver.pci import ConfigSpace, RomLayout
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.describe import describe, header_of

Make = Callable[..., ConfigSpace]


def test_describe_shows_shape(make: Make) -> None:
    view = describe(make(PowerManagement(), PciExpress(), DeviceSerialNumber(), interrupt_pin=1, rom=RomLayout(0x800)))
    assert (view.size, view.interrupt_pin, view.rom_size) == (4096, "A", 0x800)
    assert [(bar.index, bar.kind, bar.size) for bar in view.bars][2:] == [
        (2, "memory64", 0x10_0000),
        (4, "memory32", 0x1000),
        (5, "io", 0x100),
    ]
    assert [(one.name, one.id, one.extended, one.offset, one.length) for one in view.capabilities] == [
        ("PowerManagement", 1, False, 0x40, 8),
        ("PciExpress", 16, False, 0x48, 60),
        ("DeviceSerialNumber", 3, True, 0x100, 12),
    ]


def test_describe_gives_parts_of_values_their_names(make: Make) -> None:
    config = make(PowerManagement(), MsiX(8, table_bar=4))
    config.write(0x44, 1, 3)
    power, msix = (
        {field.name: field.bits for field in capability.fields} for capability in describe(config).capabilities
    )
    assert power["control"] == {"STATE": "D3_HOT", "NO_SOFT_RESET": 0, "PME_ENABLE": 0, "PME_STATUS": 0}
    assert msix["control"] == {"TABLE_SIZE": 7, "MASKALL": 0, "ENABLE": 0}
    assert msix["pba"] == {"BIR": 4, "OFFSET": 0x800 >> 3}


def test_header_of_an_image_is_what_describe_says_without_bars_that_are_not_set(make: Make) -> None:
    """From bytes alone, as of a saved state; cut anywhere, what is there is told."""
    config = make(PowerManagement())
    config.write(4, 2, 7)
    for at in (0x10, 0x18, 0x1C):
        config.write(at, 4, 0xABC0_0000)
    told = {field.name: (field.offset, field.width, field.value, field.bits) for field in describe(config).header}
    seen = {field.name: (field.offset, field.width, field.value, field.bits) for field in header_of(config.image)}
    assert seen.pop("rom")[2] == 0
    assert told == seen | {name: place for name, place in told.items() if name not in seen}
    assert [name for name in told if name not in seen] == ["bar1", "bar4"]
    assert seen["bar2"][1:3] == (8, 0xABC0_0000_ABC0_000C)
    for length in range(0x40):
        assert all(field.offset + field.width <= length for field in header_of(config.image[:length]))


def test_describe_is_json(make: Make) -> None:
    view = asdict(describe(make(PowerManagement(), PciExpress(flr=True))))
    assert json.loads(json.dumps(view))["identity"]["vendor"] == 0x1234
