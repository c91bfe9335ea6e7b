"""`vfuserver list` and `vfuserver describe`."""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_list_shows_built_in_devices_with_their_ids(run: Run) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "ID", "ORIGIN"]
    assert any(line.split()[:2] == ["gpio-idio-16", "494f:0dc8"] for line in lines)


def test_list_json_is_data(run: Run) -> None:
    devices = {one["name"]: one for one in json.loads(run("list", "--json").stdout)}
    assert {"edu", "gpio-idio-16", "pvpanic", "testdev"} <= set(devices)
    assert (devices["edu"]["vendor"], devices["edu"]["device"]) == (0x1234, 0x11E8)


def test_describe_shows_registers_capabilities_interrupts_and_options(run: Run) -> None:
    text = run("describe", "testdev").stdout
    assert "1234:7e57 revision 01" in text
    assert "BAR2 shared: 1 MiB, 64-bit memory, prefetchable, mappable from 0x1000 to 0x40000" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["0x0004", "4", "RW", "0x0", "read/write", "scratch"] in rows
    assert ["0x060", "0x11", "12", "MsiX"] in rows
    assert "INTx pin A, MSI x 4, MSI-X x 8" in text
    assert "mappable  yes" in text


def test_describe_follows_the_options_given(run: Run) -> None:
    text = run("describe", "testdev", "--set", "mappable=no").stdout
    assert "mappable from" not in text
    assert "no (default yes)" in text


def test_describe_json_is_data(run: Run) -> None:
    one = json.loads(run("describe", "gpio-idio-16", "--json", "--set", "inputs=0x10").stdout)
    assert one["identity"]["vendor"] == 0x494F
    assert [bar["index"] for bar in one["bars"]] == [2]
    assert one["bars"][0]["registers"][0]["name"] == "out_low"
    assert {option["key"]: option["value"] for option in one["options"]} == {"loopback": False, "inputs": 0x10}


def test_describe_takes_a_class_in_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from vfuserver import Bar, PciDevice, PciIdentity\n"
        "class Mine(PciDevice):\n"
        '    """My device."""\n'
        "    identity = PciIdentity(vendor=0x1234, device=1)\n"
        "    bar = Bar(0, size=4096)\n"
        "    words = bar.array(0, __import__('vfuserver').RW, count=4)\n"
    )
    text = run("describe", "mine.py:Mine").stdout
    assert text.startswith("mine: My device.")
    assert "words[4]" in text
    assert "Interrupts    none" in text
