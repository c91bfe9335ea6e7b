"""A guest with our devices: servers and machine in one loop, one boot for many tests."""

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.engines import CHOSEN, POLLED
from vfuserver.device.loader import load
from vfuserver.device.pci_device import PciDevice
from vfuserver.engine import Server, find_engine, find_home, listen
from vfuserver.guest import Machine, Plug
from vfuserver.session import SessionOptions

IDIO, EDU, TESTDEV, PVPANIC = "gpio-idio-16", "edu", "testdev", "pvpanic"
AF_CARD, TARGET = "af-card", "target"
OWN_MODELS = {AF_CARD: Path(__file__).with_name("af_card.py"), TARGET: Path(__file__).with_name("target.py")}
"""Models that are no devices of the project, by file."""

OPTIONS = SessionOptions(poll=POLLED)

Options = Mapping[str, str]


@dataclass
class Rig:
    """A running guest, the devices behind it, and where the guest has found them."""

    guest: Machine
    devices: dict[str, PciDevice]
    plugs: dict[str, Plug]
    places: dict[str, str] = field(default_factory=dict)

    def bdf(self, device: str) -> str:
        """The device's address in the guest, such as 0000:00:01.0."""
        return self.places[device]

    async def pcitool(self, command: str, device: str, *rest: object) -> str:
        """Runs pcitool on a device and returns what it printed."""
        return await self.guest.check(f"pcitool {command} {self.bdf(device)} {' '.join(map(str, rest))}")

    async def read(self, device: str, bar: int | str, offset: int, width: int = 4) -> int:
        """What the guest's CPU reads from a register."""
        return int(await self.pcitool("read", device, bar, offset, width), 16)

    async def write(self, device: str, bar: int | str, offset: int, value: int, width: int = 4) -> None:
        """A store by the guest's CPU."""
        await self.pcitool("write", device, bar, offset, width, value)

    async def bar(self, device: str, index: int) -> int:
        """The bus address of a BAR, as the guest's kernel has assigned it."""
        table = await self.guest.check(f"cat /sys/bus/pci/devices/{self.bdf(device)}/resource")
        return int(table.splitlines()[index].split()[0], 16)

    async def copy(self, source: int, destination: int, length: int) -> int:
        """Lets testdev copy between bus addresses; its status afterwards."""
        return int(await self.pcitool("testdev-copy", TESTDEV, source, destination, length), 16)

    async def setpci(self, device: str, *words: str) -> list[str]:
        """setpci on a device: the values that it prints."""
        return (await self.guest.check(f"setpci -s {self.bdf(device)} {' '.join(words)}")).split()

    async def lspci(self, device: str) -> list[str]:
        """What the guest's lspci says of a device, line by line."""
        return await self._decoded(f"-s {self.bdf(device)}")

    async def lspci_of(self, dump: str) -> list[str]:
        """What the same lspci says of a dump."""
        await self.guest.check(f"cat > /tmp/dump <<'END'\n{dump}END")
        return await self._decoded("-F /tmp/dump")

    async def _decoded(self, words: str) -> list[str]:
        """Without names (there is no list of them) and without libkmod's complaint that the guest has no depmod."""
        return (await self.guest.check(f"lspci -nvvv {words} 2>/tmp/complaints")).splitlines()

    async def interrupts(self, name: str) -> int:
        """How many interrupts the guest has counted on lines whose description contains `name`."""
        listing = await self.guest.check("cat /proc/interrupts")
        cpus = len(listing.splitlines()[0].split())
        lines = [line.split() for line in listing.splitlines() if name in line]
        return sum(int(word) for line in lines for word in line[1 : 1 + cpus])

    async def find(self) -> None:
        """Where the guest has its devices now."""
        listing = await self.guest.check(
            "for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor $d/device); done"
        )
        found = {ids: place for place, _, ids in (line.partition(" ") for line in listing.splitlines())}
        ids = {name: device.declaration.identity for name, device in self.devices.items()}
        self.places = {
            name: found[key] for name, own in ids.items() if (key := f"{own.vendor:#06x} {own.device:#06x}") in found
        }


@asynccontextmanager
async def rig(
    topology: str,
    devices: Mapping[str, Options],
    *,
    modules: Sequence[str] = (),
    spare: Sequence[str] = (),
    pciutils: bool = False,
    engine: str = CHOSEN,
) -> AsyncIterator[Rig]:
    """Serves `devices` (name -> options), boots the stock guest of `topology` on them, and takes both down again."""
    with tempfile.TemporaryDirectory(prefix="vfu-") as folder:
        found = find_engine(engine)
        async with Server() as server:
            made, plugs = {}, {}
            for name, options in devices.items():
                home = find_home(found, OPTIONS.poll, name)
                made[name] = home.call_patiently(partial(load(str(OWN_MODELS.get(name, name))), name=name, **options))
                server.add(made[name], listen(Path(folder) / name), OPTIONS, home.serve)
                plugs[name] = Plug(name, Path(folder) / name)
            plugged = list(plugs.values())
            async with Machine(topology, plugged, modules, spare_modules=spare, pciutils=pciutils) as guest:
                result = Rig(guest, made, plugs)
                await result.find()
                yield result
