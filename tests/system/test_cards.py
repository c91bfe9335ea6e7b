"""A card with two functions in a guest: a stock driver binds both, and they reach each other through the card."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from vfuserver.cli._serving import Wanted, add, plugs
from vfuserver.device import load_model
from vfuserver.engine import Server
from vfuserver.guest import Machine

pytestmark = pytest.mark.guest

CARD = "idio-pair"
FUNCTIONS = ("0000:00:10.0", "0000:00:10.1")

TOGGLE = """
base() { cat /sys/bus/pci/devices/$1/gpio/gpiochip*/base; }
cd /sys/class/gpio
out=$(($(base {source}) + 5)) in=$(($(base {target}) + 16 + 5))
echo $out >export && echo $in >export
for level in 1 0 1; do echo $level >gpio$out/value; cat gpio$in/value; done
"""


async def test_stock_driver_binds_both_functions_and_the_card_joins_them(caplog: pytest.LogCaptureFixture) -> None:
    """multifunction=on, one slot; the guest sees bit 7 of the header type."""
    with TemporaryDirectory(prefix="vfu-") as folder:
        sockets = [Path(folder) / "f0", Path(folder) / "f1"]
        async with Server() as server:
            add(server, Wanted(CARD, sockets=sockets))
            devices = plugs(load_model(CARD), CARD, sockets)
            async with Machine("q35-shared", devices, modules=["gpio-pci-idio-16"]) as guest:
                for place in FUNCTIONS:
                    link = await guest.check(f"readlink /sys/bus/pci/devices/{place}/driver")
                    assert link.endswith("/pci-idio-16")
                    assert int(await guest.check(f"pcitool read {place} config 0x0e 1"), 16) == 0x80
                for source, target in (FUNCTIONS, FUNCTIONS[::-1]):
                    script = TOGGLE.replace("{source}", source).replace("{target}", target)
                    assert (await guest.check(script)).split() == ["1", "0", "1"]
                assert guest.qemu_log == ""
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
