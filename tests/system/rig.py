"""A guest with our devices: servers and machine in one loop, one boot for many tests."""

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vfuserver.device.loader import load
from vfuserver.device.pci_device import PciDevice
from vfuserver.engine import Server, listen
from vfuserver.guest import Machine, Plug

IDIO, EDU, TESTDEV, PVPANIC = "gpio-idio-16", "edu", "testdev", "pvpanic"
IDS = {IDIO: "0x494f 0x0dc8", EDU: "0x1234 0x11e8", TESTDEV: "0x1234 0x7e57", PVPANIC: "0x1b36 0x0011"}

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

    async def find(self) -> None:
        """Where the guest has its devices now."""
        listing = await self.guest.check(
            "for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor $d/device); done"
        )
        found = {ids: place for place, _, ids in (line.partition(" ") for line in listing.splitlines())}
        self.places = {name: found[ids] for name, ids in IDS.items() if ids in found}


@asynccontextmanager
async def rig(
    topology: str, devices: Mapping[str, Options], *, modules: Sequence[str] = (), spare: Sequence[str] = ()
) -> AsyncIterator[Rig]:
    """Serves `devices` (name -> options), boots the stock guest of `topology` on them, and takes both down again."""
    with tempfile.TemporaryDirectory(prefix="vfu-") as folder:
        async with Server() as server:
            made = {name: load(name)(**options) for name, options in devices.items()}
            plugs = {}
            for name, device in made.items():
                server.add(device, listen(Path(folder) / name))
                plugs[name] = Plug(name, Path(folder) / name)
            async with Machine(topology, list(plugs.values()), modules=modules, spare_modules=spare) as guest:
                result = Rig(guest, made, plugs)
                await result.find()
                yield result
