"""What `vfuserver demo` has the guest do, as data: plain words, a shell script, and what its output must contain.

The scripts run in the guest with busybox and pcitool; every line that they print is shown. To show more, add a Step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to see. `expected` are regular expressions, each of which some line of the output must match."""

    title: str
    script: str
    expected: tuple[str, ...]


DEVICES: Final[Mapping[str, Mapping[str, str]]] = {"gpio-idio-16": {"loopback": "yes"}, "edu": {}, "testdev": {}}
"""What is served, with options."""

MODULES: Final = ("gpio-pci-idio-16", "vfio-pci", "vfio_iommu_type1")
"""Stock drivers that the guest loads."""

PRELUDE: Final = r"""
device_of() { # VENDOR:DEVICE
    for at in /sys/bus/pci/devices/*; do
        if [ "$(cat $at/vendor):$(cat $at/device)" = "0x${1%:*}:0x${1#*:}" ]; then basename $at; fi
    done
}
gpio=$(device_of 494f:0dc8) edu=$(device_of 1234:11e8) testdev=$(device_of 1234:7e57)
number() { printf %u "$1"; }
"""

_BOUND = r"""
driver=$(basename $(readlink /sys/bus/pci/devices/$gpio/driver))
echo "$gpio is 494f:0dc8, served by vfuserver"
echo "$driver bound, by the stock module $(grep -o '^gpio_pci_idio_16' /proc/modules)"
"""

_TOGGLED = r"""
base=$(cat /sys/bus/pci/devices/$gpio/gpio/gpiochip*/base)
out=$base in=$((base + 16))
cd /sys/class/gpio
echo $out >export
echo $in >export
for level in 1 0 1; do
    echo $level >gpio$out/value
    echo "output 0 is set to $level, and input 0, which is wired to it, reads $(cat gpio$in/value)"
done
"""

_FACTORIAL = r"""
echo "edu's identification register reads $(pcitool read $edu 0 0x00 4)"
pcitool write $edu 0 0x08 4 10
while [ $(($(pcitool read $edu 0 0x20 4) & 1)) = 1 ]; do :; done
echo "10! = $(number $(pcitool read $edu 0 0x08 4))"
"""

_DMA = r"""
pcitool bind $edu vfio-pci
# The interrupt is in /proc/interrupts only while vfio has it open. So pcitool is kept from ending: its last words go
# into a pipe that is full, until the counter has been looked at.
(dd if=/dev/zero bs=65536 count=1 2>/dev/null; pcitool vfio $edu 2>&1) | {
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
        counted=$(awk '/vfio-msi/ { print $2 + $3 }' /proc/interrupts)
        if [ "${counted:-0}" -ge 2 ]; then break; fi
        sleep 0.1
    done
    grep vfio-msi /proc/interrupts | tr -s ' '
    echo "interrupts counted: ${counted:-0}"
    tail -c +65537
}
"""

_TESTDEV = r"""
echo "BAR0 starts with $(pcitool read $testdev 0 0x00 4), which is \"TEST\""
for ring in 1 2 3; do pcitool write $testdev 0 0x10 4 1; done
echo "the doorbell was rung 3 times and counted $(number $(pcitool read $testdev 0 0x14 4))"
pcitool write $testdev 2 0x1000 8 0x0123456789abcdef
echo "BAR2, memory mapped into the guest, keeps $(pcitool read $testdev 2 0x1000 8)"
"""

STEPS: Final = (
    Step(
        "A stock Linux driver has found a card that is a Python class",
        _BOUND,
        (r"^pci-idio-16 bound, by the stock module gpio_pci_idio_16$",),
    ),
    Step(
        "The driver toggles an output line and reads it back at an input",
        _TOGGLED,
        (r"is set to 1, .* reads 1$", r"is set to 0, .* reads 0$"),
    ),
    Step("edu computes a factorial in Python", _FACTORIAL, (r"reads 0x010000ed", r"^10! = 3628800$")),
    Step(
        "edu moves memory by DMA, through the guest's IOMMU, and says so by MSI",
        _DMA,
        (r"^DMA verified 4096 bytes", r"^MSI received 2$", r"^interrupts counted: 2$", r"vfio-msi\[0\]"),
    ),
    Step(
        "testdev answers: a hooked register, a posted doorbell, mapped memory",
        _TESTDEV,
        (r"0x54534554", r"counted 3$", r"keeps 0x0123456789abcdef"),
    ),
)
