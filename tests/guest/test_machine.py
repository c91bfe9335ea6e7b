"""Booted guests with QEMU's own edu device: the command channel, pcitool, and that nothing is left behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from vfuserver.errors import UsageError
from vfuserver.guest import BootError, ChannelError, CommandFailed, GuestError, Machine, Plug

pytestmark = pytest.mark.guest

EDU = "00:05.0"
EDU_ARGS = ("-device", f"edu,addr={EDU[3:5]}")


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that no other machine uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("topology", ["q35-shared", "q35-messages", "q35-private"])
async def test_pcitool_reaches_registers_and_verifies_physical_dma(topology: str) -> None:
    async with Machine(topology, extra_args=EDU_ARGS) as guest:
        assert await guest.check(f"pcitool read {EDU} 0 0 4") == "0x010000ed"
        assert await guest.check(f"pcitool read {EDU} config 0 4") == "0x11e81234"
        await guest.check(f"pcitool write {EDU} 0 8 4 6")
        assert await guest.check(f"usleep 100000; pcitool read {EDU} 0 8 4") == "0x000002d0"
        assert re.fullmatch(r"[\d.]+ ns per read", await guest.check(f"pcitool latency {EDU} 0 4 4 1000"))
        assert re.fullmatch(r"[\d.]+ ns per store", await guest.check(f"pcitool fill {EDU} 0 4 4 1 1000"))
        assert (await guest.check(f"pcitool phys-dma {EDU}")).startswith("DMA verified 4096 bytes")


async def test_pcitool_through_vfio_moves_bytes_and_receives_msi() -> None:
    modules = ("vfio-pci", "vfio_iommu_type1")
    async with Machine("q35-viommu", modules=modules, extra_args=EDU_ARGS) as guest:
        assert guest.boot_messages == ""
        await guest.check(f"pcitool bind {EDU} vfio-pci")
        output = await guest.check(f"pcitool vfio {EDU} 4000")
        assert "DMA verified 4000 bytes at IOVA 0x1000000" in output
        assert "MSI received 2" in output


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Machine]:
    """One guest for the tests that leave it usable; its last port holds an edu device."""
    ports = ("-device", "edu,bus=port3,id=pluggable")
    async with Machine("q35-hotplug", extra_args=ports, spare_modules=["gpio-pci-idio-16"]) as machine:
        yield machine


@pytest.mark.asyncio(loop_scope="module")
class TestOneGuest:
    async def test_command_that_fails_is_raised_with_its_output(self, guest: Machine) -> None:
        with pytest.raises(CommandFailed, match=r"'echo no; exit 5' ended with 5\nno") as caught:
            await guest.check("echo no; exit 5")
        assert (caught.value.returncode, caught.value.stdout) == (5, b"no\n")

    async def test_output_of_many_bytes_arrives_whole(self, guest: Machine) -> None:
        await guest.check("head -c 200000 /dev/urandom >/tmp/bytes")
        first, second = await guest.run("cat /tmp/bytes"), await guest.run("cat /tmp/bytes")
        assert len(first.stdout) == 200000
        assert first.stdout == second.stdout

    async def test_longest_command_arrives_whole(self, guest: Machine) -> None:
        assert len(await guest.check("echo " + "x" * 39_990)) == 39_990

    async def test_spare_module_is_loaded_by_modprobe_with_what_it_needs(self, guest: Machine) -> None:
        await guest.check("modprobe gpio-pci-idio-16")
        assert {"gpio_pci_idio_16", "gpio_regmap"} <= set((await guest.check("lsmod")).split())

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (f"pcitool read {EDU} 0 0 4", "No such file"),
            ("pcitool read 00:1f.0 0 0 4", "has no BAR 0"),
            ("pcitool read 04:00.0 0 2 4", "not aligned, or beyond"),
            ("pcitool read 04:00.0 0 0 3", "must be 1, 2, 4 or 8"),
            ("pcitool read 04:00.0 0 zero 4", "zero is no number"),
            ("pcitool bind 04:00.0 nobody", "was not bound to nobody"),
            ("pcitool master 04:00.0 maybe", "on or off, not maybe"),
            ("pcitool vfio 04:00.0", "is in no IOMMU group"),
            ("pcitool vfio-irq 04:00.0 intx 4", "msi or msix, not intx"),
            ("pcitool vfio-irq 04:00.0 msi 65", "must be 2 to 64, not 65"),
        ],
    )
    async def test_pcitool_with_wrong_words_says_why(self, command: str, message: str, guest: Machine) -> None:
        done = await guest.run(command)
        assert done.returncode == 1
        assert done.text.startswith("pcitool: ")
        assert message in done.text

    async def test_pcitool_without_words_lists_its_commands(self, guest: Machine) -> None:
        done = await guest.run("pcitool")
        assert done.returncode == 2
        assert "pcitool latency BDF BAR OFFSET WIDTH COUNT" in done.text

    async def test_monitor_answers(self, guest: Machine) -> None:
        status = await guest.qmp.execute("query-status")
        assert isinstance(status, dict)
        assert status["status"] == "running"

    async def test_plug_of_a_server_that_is_not_there_says_so(self, guest: Machine, tmp_path: Path) -> None:
        with pytest.raises(GuestError, match="does not take the device nobody: Failed to connect"):
            await guest.plug(Plug("nobody", tmp_path / "nobody"))

    async def test_unplug_removes_a_device_from_the_guest(self, guest: Machine) -> None:
        assert await guest.check("pcitool read 04:00.0 config 0 4") == "0x11e81234"
        await guest.unplug("pluggable")
        assert (await guest.run("pcitool read 04:00.0 config 0 4")).returncode == 1
        with pytest.raises(GuestError, match="does not remove pluggable"):
            await guest.unplug("pluggable")

    async def test_reset_boots_the_guest_again(self, guest: Machine) -> None:
        await guest.check("touch /tmp/mark")
        await guest.reset()
        assert (await guest.run("test -e /tmp/mark")).returncode == 1

    async def test_panic_is_reported_with_the_console_and_reset_helps(self, guest: Machine) -> None:
        with pytest.raises(ChannelError, match=r"(?s)kernel panicked.*sysrq triggered crash"):
            await guest.run("echo c >/proc/sysrq-trigger")
        await guest.reset()
        assert await guest.check("echo alive") == "alive"


async def test_death_of_qemu_is_reported_at_once() -> None:
    async with Machine("q35-shared") as guest:
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(ChannelError, match="QEMU ended with -9"):
            await guest.run("true")
    assert guest.console


async def test_qemu_that_does_not_start_is_quoted() -> None:
    with pytest.raises(BootError, match="'nonsense' is not a valid device model name"):
        async with Machine("q35-shared", extra_args=["-device", "nonsense"]):
            pytest.fail("QEMU took it")


async def test_guest_that_does_not_come_up_in_time_is_ended(own_tmp: Path) -> None:
    """It says where both processors are: the second one is halted until the kernel starts it."""
    places = r"processor 0 (is|halted) at 0x[0-9a-f]+, processor 1 halted at 0x[0-9a-f]+\n"
    with pytest.raises(BootError, match=rf"did not boot within 0\.3 s; {places}"):
        async with Machine("q35-shared", boot_timeout=0.3, cpus=2):
            pytest.fail("that was quick")
    assert not list(own_tmp.iterdir())


async def test_devices_with_the_same_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the id twice already"):
        async with Machine("q35-shared", [Plug("twice", tmp_path / "a"), Plug("twice", tmp_path / "b")]):
            pytest.fail("booted")


async def test_cancelled_machine_leaves_nothing_behind(own_tmp: Path) -> None:
    pids: list[int] = []

    async def work() -> None:
        async with Machine("q35-shared") as guest:
            pids.append(guest.pid)
            await guest.run("sleep 100")

    task = asyncio.create_task(work())
    while not pids:
        await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pids[0]}").exists()
    assert not list(own_tmp.iterdir())


PROGRAM = """
import asyncio
from vfuserver.guest import Machine

async def main():
    async with Machine("q35-shared") as guest:
        print(guest.pid, guest._folder, flush=True)
        await guest.run("sleep 100")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_qemu_ends_with_the_program_that_started_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        pid, folder = program.stdout.readline().decode().split()
        program.send_signal(number)
        program.wait(timeout=20)
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            break
        signal.sigtimedwait([], 0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert Path(folder).exists() == (number == signal.SIGKILL)
    if Path(folder).exists():  # nobody can clean up after SIGKILL
        subprocess.run(["rm", "-r", folder], check=True)
