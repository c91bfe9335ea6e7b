"""What every built-in device must do: a new folder in devices/ is covered without an edit here."""

import ast
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from vfuserver import PciDevice, ResetReason, describe, list_devices, load_model
from vfuserver.device import function_classes, power_on
from vfuserver.testing.local_client import LocalClient

Make = Callable[[str, int], PciDevice]

HOME = Path(import_module("vfuserver_devices").__path__[0])
NAMES = [one.name for one in list_devices() if one.origin == "built in"]
FUNCTIONS = [(name, number) for name in NAMES for number in range(len(function_classes(load_model(name))))]
every_device = pytest.mark.parametrize("name", NAMES)
every_function = pytest.mark.parametrize(("name", "number"), FUNCTIONS)


@pytest.fixture
def make() -> Iterator[Make]:
    """A function of a device that was powered on; what stands on the same card is there too."""
    made: list[PciDevice] = []

    def power(name: str, number: int) -> PciDevice:
        functions = power_on(load_model(name), {})
        made.extend(functions)
        return functions[number]

    yield power
    for one in made:
        one.close()


def folder(name: str) -> Path:
    return HOME / name.replace("-", "_")


@every_device
def test_it_is_listed_with_doc_and_ids(name: str) -> None:
    listed = next(one for one in list_devices() if one.name == name)
    assert listed.doc.endswith(".")
    assert listed.vendor
    assert not listed.error


@every_device
def test_readme_names_driver_qemu_line_and_what_is_not_modelled(name: str) -> None:
    text = (folder(name) / "README.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert all(part in text for part in ("**Driver**", "**QEMU**", "**Not modelled"))


@every_device
def test_it_imports_the_public_api_only(name: str) -> None:
    for path in folder(name).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                assert not node.module.startswith("vfuserver."), f"{path}: {node.module}"


@every_device
def test_its_description_is_json(name: str) -> None:
    one = describe(load_model(name))
    assert json.loads(json.dumps(one)) == one


@every_function
async def test_every_offset_of_every_bar_can_be_read_and_written(make: Make, name: str, number: int) -> None:
    device = make(name, number)
    with LocalClient(device) as client:
        client.enable()
        for bar in device.bars.values():
            for row in bar.declared.rows:
                if not row.asynchronous:
                    client.write(
                        bar.declared.index,
                        row.offset,
                        client.read(bar.declared.index, row.offset, row.width),
                        row.width,
                    )


@every_function
def test_reset_is_power_on(make: Make, name: str, number: int) -> None:
    """S2.30: a device that was reset cannot be told from a new one."""
    device, fresh = make(name, number), make(name, number)
    with LocalClient(device) as client:
        client.enable()
        for bar in device.bars.values():
            for window in bar.windows.values():
                window[:4] = b"\xa5" * 4
        device.reset(ResetReason.MESSAGE)
        assert device.snapshot() == fresh.snapshot()
        assert device.config.image == fresh.config.image


@every_function
def test_snapshot_restores_into_another_instance(make: Make, name: str, number: int) -> None:
    device, other = make(name, number), make(name, number)
    other.restore(device.snapshot())
    assert other.snapshot() == device.snapshot()
