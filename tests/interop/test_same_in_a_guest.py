"""One guest on each engine with the same devices at the same places: whatever runs in it prints the same lines.

Nothing is left out of the comparison but times and where a buffer of the guest happened to lie. LIBVFIO_USER_SO names
the library.
"""

import os
import re
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from tests.interop.cells import BOTH, LABEL, LIBRARY, cell, qemu_version
from tests.system.rig import EDU, IDIO, TESTDEV, rig

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif("LIBVFIO_USER_SO" not in os.environ, reason="LIBVFIO_USER_SO does not name the library"),
]
ENGINES: Final = ("vfuserver", LIBRARY)
DEVICES: Final = {IDIO: {"loopback": "yes"}, EDU: {}, TESTDEV: {}}
CHANCE: Final = re.compile(r"at 0x[0-9a-f]+|(in )?[0-9.]+ us|/tmp/vfu-[^/]+")
NEEDED: Final = {IDIO: "pci-idio-16", EDU: "DMA verified 4096 bytes #", TESTDEV: "DMA verified"}

SPACE: Final = """
lspci -nvvvxxxx -s $d 2>/dev/null
cd /sys/bus/pci/devices/$d
cat resource irq enable numa_node modalias
basename $(readlink driver)
"""

PAYLOADS: Final = {
    IDIO: """
base=$(cat /sys/bus/pci/devices/$d/gpio/gpiochip*/base); cd /sys/class/gpio
for line in 0 3 8 15; do
    echo $((base + line)) >export; echo $((base + 16 + line)) >export
    for level in 1 0 1; do
        echo $level >gpio$((base + line))/value
        cat gpio$((base + line))/value gpio$((base + 16 + line))/value
    done
done
for at in 0 1 2 4 5; do pcitool read $d 2 $at 1; done
""",
    EDU: """
for at in 0 4 8 32 36; do pcitool read $d 0 $at 4; done
pcitool write $d 0 4 4 0x12345678; pcitool read $d 0 4 4
pcitool write $d 0 8 4 10; sleep 0.1; pcitool read $d 0 8 4
pcitool read $d 0 4 1; pcitool read $d 0 0x500 4
pcitool phys-dma $d
modprobe uio_pci_generic; pcitool bind $d uio_pci_generic
dd if=/dev/uio0 bs=4 count=1 2>/dev/null >/tmp/count & sleep 0.2
pcitool write $d 0 0x60 4 5; wait; od -An -tu4 /tmp/count
for at in 0 4 6; do pcitool read $d config $at 2; done
pcitool write $d 0 0x64 4 5; pcitool read $d 0 0x24 4; pcitool read $d config 6 2
grep uio_pci_generic /proc/interrupts | tr -s ' ' | cut -d' ' -f2,5-
""",
    TESTDEV: """
pcitool write $d config 4 2 7
for at in $(seq 0 4 0x7c); do pcitool read $d 0 $at 4; done
for at in $(seq 0 4 0x7c); do pcitool write $d 1 $at 4 0xffffffff; pcitool read $d 1 $at 4; done
for width in 1 2 8; do pcitool read $d 1 0 $width; pcitool read $d 0 0 $width; done
for at in 0 0x1000 0x80000 0xffffc; do pcitool write $d 2 $at 4 $at; pcitool read $d 2 $at 4; done
for at in 0 4; do pcitool write $d 5 $at 4 0x11223344; pcitool read $d 5 $at 4; pcitool read $d 5 $at 1; done
pcitool testdev-dma $d
pcitool testdev-copy $d 0x100000 0x200000 0; pcitool testdev-copy $d 0xffffffff000 0x200000 64
""",
}
Printed = dict[str, dict[str, list[str]]]


async def printed_with(engine: str) -> dict[str, list[str]]:
    """What the guest prints about each device: first as it was booted, then when all has run, with exit codes."""
    printed: dict[str, list[str]] = {}
    modules = ["gpio-pci-idio-16"]
    async with rig(
        "q35-shared", DEVICES, modules=modules, spare=["uio_pci_generic"], pciutils=True, engine=engine
    ) as on:
        for device, payload in PAYLOADS.items():
            for script in (SPACE, payload, SPACE):
                done = await on.guest.run(f"d={on.bdf(device)}; exec 2>&1; {script}")
                lines = [CHANCE.sub("#", line) for line in done.text.splitlines()]
                printed.setdefault(device, []).extend([*lines, f"exit code {done.returncode}"])
        printed["qemu"] = CHANCE.sub("#", on.guest.qemu_log).splitlines()
    return printed


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="printed")
async def both() -> AsyncIterator[Printed]:
    """By engine and device."""
    yield {engine: await printed_with(engine) for engine in ENGINES}


def _cells(device: str) -> pytest.MarkDecorator:
    return cell(BOTH, "QEMU", f"{device}: lspci, registers, stock driver", lambda: f"{qemu_version()}, library {LABEL}")


@pytest.mark.parametrize("device", [pytest.param(name, marks=_cells(name)) for name in DEVICES])
def test_guest_prints_the_same_on_both_engines(printed: Printed, device: str) -> None:
    ours, theirs = (printed[engine][device] for engine in ENGINES)
    assert ours == theirs
    assert len(ours) > 100
    assert any(line.startswith(NEEDED[device]) for line in ours)
    assert not [line for line in ours if "not found" in line or "syntax" in line]


def test_qemu_complains_of_the_same_on_both_engines(printed: Printed) -> None:
    """Of the read of 1 byte, which edu refuses."""
    ours, theirs = (printed[engine]["qemu"] for engine in ENGINES)
    assert ours == theirs
    assert len(ours) == 1
