"""An expansion ROM in a guest: what Linux reads behind the ROM's BAR is the file."""

import hashlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from vfuserver.cli._serving import Wanted, add, plugs
from vfuserver.device import load_model
from vfuserver.engine import Server
from vfuserver.guest import Machine
from vfuserver.testing.rom import rom_image

pytestmark = pytest.mark.guest

EDU = "edu"
CONTENT = rom_image(0x1234, 0x11E8, units=100, last=False) + rom_image(0x1234, 0x11E8, units=55)
SIZE = 128 << 10
PRELUDE = (
    "for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor)$(cat $d/device) = 0x12340x11e8 ] && break; done; cd $d; "
)


async def test_guest_reads_the_file_behind_the_rom_bar(caplog: pytest.LogCaptureFixture) -> None:
    """S2.14: two images, as Linux finds them by their PCIR, in a BAR of the next power of two."""
    with TemporaryDirectory(prefix="vfu-") as folder:
        file, sockets = Path(folder) / "edu.rom", [Path(folder) / "edu"]
        file.write_bytes(CONTENT)
        async with Server() as server:
            add(server, Wanted(EDU, sockets=sockets, rom=file))
            async with Machine("q35-shared", plugs(load_model(EDU), EDU, sockets), pciutils=True) as guest:
                resource = await guest.check(PRELUDE + "sed -n 7p resource")
                start, end = (int(word, 16) for word in resource.split()[:2])
                assert (start != 0, end - start + 1) == (True, SIZE)
                assert await guest.check(PRELUDE + "echo 1 > rom && wc -c < rom") == str(len(CONTENT))
                digest = await guest.check(PRELUDE + "sha256sum < rom")
                assert digest.split()[0] == hashlib.sha256(CONTENT).hexdigest()
                seen = await guest.check(PRELUDE + "lspci -nvv -s ${d##*/} 2>/dev/null")
                assert re.search(r"Expansion ROM at [0-9a-f]+ .*\[size=128K\]", seen)
                assert guest.qemu_log == ""
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
