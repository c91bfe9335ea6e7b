"""What tools ask of device classes: describe, list, load, suggest; and what the public API costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vfuserver
from vfuserver import UsageError, describe, list_devices, load, load_model, suggest
from vfuserver.testing.local_client import LocalClient

from .conftest import Sample

FILE = """
from vfuserver import Bar, PciDevice, PciIdentity

class Mine(PciDevice):
    \"\"\"My own device.\"\"\"

    identity = PciIdentity(vendor=0x1234, device=0x1111)
    mmio = Bar(0, size=4096)
    hello = mmio.ro(0, reset=42)
"""


def test_description_is_json_of_everything_declared() -> None:
    one = describe(Sample)
    assert json.loads(json.dumps(one)) == one
    assert one["name"] == "sample"
    assert [bar["index"] for bar in one["bars"]] == [0, 1, 4]
    assert one["bars"][0]["registers"][0]["policy"] == "RW"
    assert [capability["name"] for capability in one["capabilities"]] == [
        "PowerManagement",
        "Msi",
        "MsiX",
        "VendorSpecific",
    ]
    assert one["interrupts"] == {"intx": "B", "msi": 4, "msix": 3, "err": 1, "req": 1}


def test_list_shows_every_device_with_doc_and_ids() -> None:
    listed = {one.name: one for one in list_devices()}
    assert {"edu", "gpio-idio-16", "pvpanic", "testdev"} <= set(listed)
    assert (listed["edu"].vendor, listed["edu"].device, listed["edu"].error) == (0x1234, 0x11E8, "")
    assert listed["edu"].doc.startswith("QEMU's educational device")


def test_a_card_is_loaded_as_a_model_and_not_as_a_device() -> None:
    assert load_model("idio-pair").device_name == "idio-pair"
    assert load_model("edu") is load("edu")
    with pytest.raises(UsageError, match="idio-pair must be a device, not a card"):
        load("idio-pair")


def test_name_is_loaded_and_given_to_the_class() -> None:
    found = load("gpio-idio-16")
    assert (found.__name__, found.device_name) == ("GpioIdio16", "gpio-idio-16")


def test_file_and_class_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    assert load(f"{path}:Mine") is load(f"{path}:Mine")
    assert load(str(path)).declaration.identity.device == 0x1111


def test_module_and_class_are_loaded() -> None:
    assert load("vfuserver_devices.edu:Edu") is load("edu")


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("nonesuch", "there is no device nonesuch: there are edu, gpio-idio-16"),
        ("/no/such.py:Mine", "there is no file /no/such.py"),
        ("no.such.module:Mine", "module no.such.module cannot be imported"),
        ("vfuserver_devices.edu:Nothing", "Nothing must be a PciDevice or Card class; in that file there are: Edu"),
    ],
)
def test_device_that_is_not_there_says_what_is(device: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(device)
    assert says in str(raised.value)


def test_file_that_does_not_import_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_this_name")
    with pytest.raises(UsageError, match="cannot be imported: ModuleNotFoundError"):
        load(f"{path}:Mine")


def test_suggest_tells_each_undeclared_place_once(client: LocalClient, device: Sample) -> None:
    said: list[str] = []
    suggest(device, said.append)
    for _ in range(3):
        client.write(0, 0x18, 0x10)
        client.read(0, 0x20, 1)
    assert said == [
        "guest wrote 0x10 to BAR0+0x18 (4 bytes), nobody declared it",
        "guest read BAR0+0x20 (1 byte), nobody declared it",
    ]
    assert device.mmio.undeclared == 6


def test_import_of_the_package_is_cheap() -> None:
    """Issue 2: `import vfuserver` plus `--help` under 0.3 s; nothing heavy comes with the name."""
    code = "import sys, vfuserver; print([name for name in ('asyncio', 'vfuserver._core') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(vfuserver, name) is not None for name in vfuserver.__all__)
    assert set(vfuserver.__all__) == set(vfuserver._HOME)
    with pytest.raises(AttributeError, match="no attribute 'Nonesuch'"):
        getattr(vfuserver, "Nonesuch")  # noqa: B009 - mypy knows that it is not there
