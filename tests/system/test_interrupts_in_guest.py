"""Every interrupt of testdev, received by a program of the guest: MSI-X and MSI by vfio-pci, INTx by uio; a vIOMMU."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.system.rig import TESTDEV, Rig, rig
from vfuserver import PowerManagement
from vfuserver.pci import PowerState
from vfuserver.pci.lspci import render

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module")]

RAISE, LOWER_INTX = 0x18, 0x1C
INTX_DISABLE, INTERRUPT_STATUS = 1 << 10, 1 << 3
LINK = ("LnkCap", "LnkCtl", "LnkSta", "LnkCap2", "LnkCtl2", "LnkSta2")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def booted() -> AsyncIterator[Rig]:
    spare = ["vfio-pci", "vfio_iommu_type1", "uio_pci_generic"]
    async with rig("q35-viommu", {TESTDEV: {}}, spare=spare, pciutils=True) as running:
        await running.guest.check("modprobe vfio-pci && modprobe vfio_iommu_type1 && modprobe uio_pci_generic")
        yield running


async def test_lspci_on_the_root_bus_differs_by_what_an_integrated_endpoint_has_not(rig: Rig) -> None:
    """S2.11: QEMU turns an endpoint without a port above it into one of the root complex, which has no link
    (PCIe 5.0, 7.5.3): it hides the link registers. All other capabilities, the extended ones too, are ours.

    The first test of this guest: what QEMU has taken of MSI it keeps after a function level reset, and the server not.
    """
    seen, ours = blocks(await rig.lspci(TESTDEV)), blocks(await rig.lspci_of(render(rig.devices[TESTDEV].config.image)))
    assert list(seen) == [place.replace("(v2) Endpoint", "(v2) Root Complex Integrated Endpoint") for place in ours]
    different = [place for place in ours if seen.get(place) != ours[place] and place]
    assert [place.partition(",")[0] for place in different] == ["[6c] Express (v2) Endpoint"]
    express, integrated = ours[different[0]], seen[different[0].replace("Endpoint", "Root Complex Integrated Endpoint")]
    assert {name for name in express if name not in integrated} == set(LINK)
    assert {name for name in integrated if integrated[name] != express[name]} == {"DevCap", "DevCap2"}


def blocks(lines: list[str]) -> dict[str, dict[str, str]]:
    """lspci's text by capability, and in each by register (two tabs; three go on with it)."""
    found: dict[str, dict[str, str]] = {"": {}}
    place = register = ""
    for line in lines[1:]:
        if line.startswith("\tCapabilities: "):
            place, register = line.removeprefix("\tCapabilities: "), ""
            found[place] = {}
            continue
        if not line.startswith("\t\t\t"):
            register = line.strip().partition(":")[0]
        found[place][register] = found[place].get(register, "") + line
    return found


def only(count: int, *vectors: int) -> str:
    """How vfio-irq prints how often each of `count` vectors came: each of `vectors` once for each time it is named."""
    return " ".join(str(vectors.count(each)) for each in range(count))


@pytest.mark.parametrize(("index", "count"), [("msix", 8), ("msi", 4)])
async def test_each_vector_is_received_by_itself_and_waits_while_the_guest_masks_it(
    rig: Rig, index: str, count: int
) -> None:
    """S2.19, S2.20, S2.21: no vector comes with another. Masked in the MSI-X table (of which QEMU keeps the mask to
    itself) or in the MSI capability, it is held while its neighbour comes twice, and comes once when unmasked."""
    await rig.pcitool("bind", TESTDEV, "vfio-pci")
    printed = (await rig.pcitool("vfio-irq", TESTDEV, index, count)).splitlines()
    own = [f"raised {vector}: {only(count, vector)}" for vector in range(count)]
    masked = [
        line
        for vector in range(count)
        for line in (
            f"masked {vector}: {only(count, *[(vector + 1) % count] * 2)}",
            f"unmasked {vector}: {only(count, vector)}",
        )
    ]
    assert printed == own + masked


async def test_an_idle_driver_suspends_the_device_and_wakes_it(rig: Rig) -> None:
    """S2.23: runtime power management of vfio-pci: D3hot while nobody has the device open, D0 and decoding after."""
    power = rig.devices[TESTDEV].config.find(PowerManagement)
    assert power is not None
    place = f"/sys/bus/pci/devices/{rig.bdf(TESTDEV)}/power"
    await rig.pcitool("bind", TESTDEV, "vfio-pci")
    for control, status, state in (("auto", "suspended", PowerState.D3_HOT), ("on", "active", PowerState.D0)):
        await rig.guest.check(f"echo {control} > {place}/control")
        await rig.guest.check(f"until grep -q {status} {place}/runtime_status; do usleep 1000; done")
        assert power.state is state


async def test_intx_is_received_by_uio_and_stands_until_it_is_lowered(rig: Rig) -> None:
    """S2.16: uio_pci_generic disables INTx in its handler. Enabled again the line still stands, so it comes again;
    after it was lowered it does not."""
    await rig.pcitool("bind", TESTDEV, "uio_pci_generic")
    before = await rig.interrupts("uio_pci_generic")
    await rig.guest.check("dd if=/dev/uio0 of=/tmp/count bs=4 count=1 2>/dev/null & echo $! > /tmp/reader")
    await rig.write(TESTDEV, 0, RAISE, 0)
    await rig.guest.check(
        "while [ -e /proc/$(cat /tmp/reader) ]; do usleep 1000; done; [ $(stat -c %s /tmp/count) = 4 ]"
    )
    command = await rig.read(TESTDEV, "config", 4, 2)
    assert command & INTX_DISABLE
    assert await rig.read(TESTDEV, "config", 6, 2) & INTERRUPT_STATUS
    await rig.write(TESTDEV, "config", 4, command & ~INTX_DISABLE, 2)
    assert await rig.interrupts("uio_pci_generic") - before == 2
    await rig.write(TESTDEV, 0, LOWER_INTX, 0)
    assert not await rig.read(TESTDEV, "config", 6, 2) & INTERRUPT_STATUS
    await rig.write(TESTDEV, "config", 4, command & ~INTX_DISABLE, 2)
    assert await rig.interrupts("uio_pci_generic") - before == 2
