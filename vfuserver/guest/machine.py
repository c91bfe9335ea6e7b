"""A virtual machine for tests, demonstrations and `vfuserver run`: boots, takes commands, and leaves nothing behind.

    async with Machine("q35-shared", [Plug("dev", "/run/x.sock")], modules=["gpio-pci-idio-16"]) as guest:
        print(await guest.check("lspci -k"))

QEMU inherits two connected sockets, one for QMP and one for the guest's command channel, so there are no paths to
clean and no connecting to wait for. While anything waits for the guest, QEMU's end and the kernel's panic are waited
for as well. What a device is, this module must not know.
"""

import asyncio
import contextlib
import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import QMPClient, QMPError

from vfuserver.errors import UsageError
from vfuserver.guest.accel import choose_accel
from vfuserver.guest.boot import boot_words
from vfuserver.guest.channel import Channel, CompletedCommand
from vfuserver.guest.errors import BootError, ChannelError, CommandFailed, GuestError
from vfuserver.guest.initramfs import Contents, build_initramfs
from vfuserver.guest.modules import ModuleTree
from vfuserver.guest.obtain import KernelKind, find_busybox, find_kernel, find_qemu
from vfuserver.guest.pciutils import guest_files
from vfuserver.guest.process import QemuProcess, excerpt
from vfuserver.guest.relay import relay
from vfuserver.guest.tools import build_tool
from vfuserver.guest.topology import Plug, Topology, load_topology, numbered

_T = TypeVar("_T")

_KERNEL_WORDS = ("loglevel=5", "vfu.channel=ttyS1")
_PANIC = "Kernel panic - not syncing"
_PANIC_POLL = 0.25
_PROCESSOR = re.compile(r"CPU#(\d+).*?\b[RE]IP=([0-9a-f]+).*?\bHLT=(\d)", re.DOTALL)
_DYING = 2.0


class Machine:
    """One QEMU with one guest. An asynchronous context manager; everything else works inside it.

    `devices`: plugged in before the boot. `modules`: loaded at boot, in this order, with what they need;
    `spare_modules` can be loaded later by modprobe. A `vfio` kernel has everything built in and ignores both.
    `files`: path in the guest -> file of the host. `pcitool`: put /bin/pcitool in (needs a C compiler).
    `pciutils`: put lspci and setpci in (8 MB, fetched once). `cpus`: of more than one, under TCG on a busy host, one
    now and then runs what another has patched meanwhile. `boot_timeout` in seconds.
    """

    def __init__(
        self,
        topology: str | Topology,
        devices: Sequence[Plug] = (),
        modules: Sequence[str] = (),
        kernel: KernelKind = "stock",
        extra_args: Sequence[str] = (),
        *,
        spare_modules: Sequence[str] = (),
        kernel_arguments: Sequence[str] = (),
        files: Mapping[str, Path] | None = None,
        pcitool: bool = True,
        pciutils: bool = False,
        cpus: int = 1,
        boot_timeout: float = 120.0,
    ) -> None:
        self._topology = load_topology(topology) if isinstance(topology, str) else topology
        self._cold = tuple(devices)
        self._modules, self._spare_modules = tuple(modules), tuple(spare_modules)
        self._kernel_kind: KernelKind = kernel
        self._extra_args = tuple(extra_args)
        self._kernel_arguments = tuple(kernel_arguments)
        self._files = dict(files or {})
        self._with_pcitool = pcitool
        self._with_pciutils = pciutils
        self._cpus = cpus
        self._boot_timeout = boot_timeout
        self._plugs: dict[str, int] = {}
        self._relays: dict[str, contextlib.AsyncExitStack] = {}
        self._stack = contextlib.AsyncExitStack()
        self._folder = Path()
        self._last_console = ""
        self._last_messages = ""
        self._console_start = 0
        self.boot_messages = ""
        """What the guest's /init complained about: modules that did not load."""
        self.qmp = QMPClient("vfuserver guest")
        """QEMU's monitor: `await guest.qmp.execute("query-status")`."""

    # ---- life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._boot()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _boot(self) -> None:
        words = await asyncio.to_thread(self._prepare)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vfuserver-guest-")))
        self._stack.callback(self._remember_logs)
        words += self._topology.machine_args(self._folder)
        for index, plug in numbered(self._cold):
            words += ["-device", json.dumps(await self._device(plug, index))]
        await self._start([*words, *self._extra_args])
        async with self._within_boot_timeout("boot"):
            self.boot_messages = await self._attend(self._channel.ready())

    async def _leave(self) -> None:
        for stack in (*self._relays.values(), self._stack):
            await stack.aclose()

    def _prepare(self) -> list[str]:
        """Obtain and build what is needed (blocking); the words for QEMU up to the machine."""
        qemu, kernel, busybox = find_qemu(), find_kernel(self._kernel_kind), find_busybox()
        tree = ModuleTree(kernel.modules) if kernel.modules else None
        initramfs = build_initramfs(Contents(busybox, tree, self._modules, self._spare_modules, self._all_files()))
        append = (*_KERNEL_WORDS, *self._topology.kernel_arguments, *self._kernel_arguments)
        words = [*qemu.command, "-accel", choose_accel(qemu, kernel), "-cpu", "max", "-smp", str(self._cpus)]
        words += ["-nodefaults", "-no-user-config", "-display", "none"]
        return [*words, *boot_words(kernel, initramfs, append)]

    def _all_files(self) -> dict[str, Path]:
        """The caller's files and our tools."""
        pcitool = {"/bin/pcitool": build_tool("pcitool")} if self._with_pcitool else {}
        return {**self._files, **pcitool, **(guest_files() if self._with_pciutils else {})}

    async def _start(self, words: list[str]) -> None:
        """Start QEMU with its three lines to us: QMP, console, command channel."""
        pairs = {name: socket.socketpair() for name in ("qmp", "channel")}
        try:
            words += ["-chardev", f"file,id=console,path={self._folder / 'console'}", "-serial", "chardev:console"]
            for name, (_, theirs) in pairs.items():
                words += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
            words += ["-serial", "chardev:channel", "-qmp", "chardev:qmp"]
            passed = [theirs.fileno() for _, theirs in pairs.values()]
            self._process = await QemuProcess.start(words, self._folder / "qemu.log", passed)
            self._stack.push_async_callback(self._process.end)
        except BaseException:
            for ours, _ in pairs.values():
                ours.close()
            raise
        finally:
            for _, theirs in pairs.values():
                theirs.close()
        self._channel = await Channel.open(pairs["channel"][0])
        self._stack.push_async_callback(self._channel.close)
        self._watch_for_doom()
        await self._connect_qmp(pairs["qmp"][0])

    async def _connect_qmp(self, connected: socket.socket) -> None:
        try:
            await self.qmp.connect(connected)
        except QMPError as error:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.ended(), _DYING)
            raise BootError(self._evidence(f"QEMU did not start: {error}")) from error
        self._stack.push_async_callback(self._disconnect_qmp)

    async def _disconnect_qmp(self) -> None:
        with contextlib.suppress(QMPError, EOFError, OSError):  # QEMU may be gone already
            await self.qmp.disconnect()

    # ---- commands --------------------------------------------------------------------------------------------------

    async def run(self, command: str, timeout: float = 60.0) -> CompletedCommand:
        """Run a shell command in the guest; it is killed after `timeout` seconds (its code is then 143).

        ChannelError, with the end of the console, when the guest panics, restarts, or stops answering.
        """
        return await self._attend(self._channel.run(command, timeout))

    async def check(self, command: str, timeout: float = 60.0) -> str:
        """The output of a command that must succeed, as text without the last newline; CommandFailed otherwise."""
        done = await self.run(command, timeout)
        if done.returncode:
            raise CommandFailed(command, done.returncode, done.stdout)
        return done.text.removesuffix("\n")

    async def reset(self) -> None:
        """Reset the machine as its reset button does, and wait until the guest serves commands again."""
        self._console_start = len(self.console)
        self._watch_for_doom()
        await self.qmp.execute("system_reset")
        async with self._within_boot_timeout("reset"):
            self.boot_messages = await self._attend(self._channel.ready())

    # ---- devices ---------------------------------------------------------------------------------------------------

    async def plug(self, plug: Plug, bus: str | None = None) -> None:
        """Plug a device in while the guest runs, on `bus` or where the topology puts the next device.

        GuestError with QEMU's reason if it refuses (no hot-plug bus, server not there).
        """
        index = next(number for number in range(len(self._plugs) + 1) if number not in self._plugs.values())
        described = await self._device(plug, index, {"bus": bus} if bus else {})
        try:
            await self.qmp.execute("device_add", described)
        except QMPError as error:
            await self._forget(plug.id)
            raise GuestError(self._evidence(f"QEMU does not take the device {plug.id}: {error}")) from error

    async def unplug(self, device_id: str, timeout: float = 30.0) -> None:
        """Ask the guest to give the device up, and wait (seconds) until QEMU has removed it."""
        names = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
        with self.qmp.listener(names, lambda event: _data(event).get("device") == device_id) as events:
            try:
                await self.qmp.execute("device_del", {"id": device_id})
                async with asyncio.timeout(timeout):
                    event = await events.get()
            except QMPError as error:
                raise GuestError(f"QEMU does not remove {device_id}: {error}") from error
            except TimeoutError:
                text = f"the guest did not give up {device_id} within {timeout:.0f} s"
                raise GuestError(self._evidence(text)) from None
        if event["event"] != "DEVICE_DELETED":
            raise GuestError(self._evidence(f"the guest refused to give up {device_id}"))
        await self._forget(device_id)

    async def _device(self, plug: Plug, index: int, placed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The device's JSON, behind a relay of its own if the topology says so."""
        if plug.id in self._plugs:
            raise UsageError(f"there is a device with the id {plug.id} already")
        self._plugs[plug.id] = index
        path = None
        if self._topology.relay:
            path = self._folder / f"relay-{plug.id}"
            stack = self._relays[plug.id] = contextlib.AsyncExitStack()
            await stack.enter_async_context(relay(path, Path(plug.socket_path)))
        return {**self._topology.device_json(plug, index, path), **(placed or {})}

    async def _forget(self, device_id: str) -> None:
        self._plugs.pop(device_id, None)
        if stack := self._relays.pop(device_id, None):
            await stack.aclose()

    # ---- evidence --------------------------------------------------------------------------------------------------

    @property
    def console(self) -> str:
        """Everything on the guest's console so far; kept after the end."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "console").read_text(errors="replace")
        return self._last_console

    @property
    def qemu_log(self) -> str:
        """Everything that QEMU has printed so far; kept after the end."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "qemu.log").read_text(errors="replace")
        return self._last_messages

    @property
    def pid(self) -> int:
        """QEMU's process id (for measurements)."""
        return self._process.pid

    def _remember_logs(self) -> None:
        self._last_console, self._last_messages = self.console, self.qemu_log

    def _evidence(self, text: str) -> str:
        return f"{text}\n--- QEMU said:\n{excerpt(self.qemu_log)}\n--- the guest's console:\n{excerpt(self.console)}"

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def _watch_for_doom(self) -> None:
        """From now on know when the guest cannot answer any more."""
        if (old := getattr(self, "_doom", None)) is not None:
            old.cancel()
        self._doom = asyncio.create_task(self._until_doom())
        self._stack.callback(self._doom.cancel)

    async def _until_doom(self) -> str:
        """Wait for QEMU's end or the kernel's panic; which of them it was."""
        while self._process.returncode is None:
            if _PANIC in self.console[self._console_start :]:
                await asyncio.sleep(_PANIC_POLL)  # for the rest of its words
                return "the guest's kernel panicked"
            await asyncio.sleep(_PANIC_POLL)
        return f"QEMU ended with {self._process.returncode}"

    async def _attend(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, or ChannelError, with the evidence, as soon as the guest cannot answer any more."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._doom}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        except ChannelError as error:
            await asyncio.wait({self._doom}, timeout=_DYING)  # a closed channel is how QEMU's end is first seen
            raise ChannelError(self._evidence(self._doom_or(str(error)))) from error
        finally:
            task.cancel()
        raise ChannelError(self._evidence(self._doom.result()))

    def _doom_or(self, text: str) -> str:
        return self._doom.result() if self._doom.done() else text

    @contextlib.asynccontextmanager
    async def _within_boot_timeout(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._boot_timeout):
                yield
        except ChannelError as error:
            raise BootError(f"the guest did not {what}: {error}") from error
        except TimeoutError:
            text = f"the guest did not {what} within {self._boot_timeout:g} s; {await self._processors()}"
            raise BootError(self._evidence(text)) from None

    async def _processors(self) -> str:
        """Where the guest's processors stand, by their instruction pointers; a kernel hangs without a word."""
        try:
            async with asyncio.timeout(_DYING):
                dump = await self.qmp.execute("human-monitor-command", {"command-line": "info registers -a"})
        except (QMPError, TimeoutError) as error:
            return f"where it stands QEMU does not say: {error!r}"
        return ", ".join(
            f"processor {number} {'halted' if halted == '1' else 'is'} at {int(at, 16):#x}"
            for number, at, halted in _PROCESSOR.findall(str(dump))
        )


def _data(event: Mapping[str, Any]) -> Mapping[str, Any]:
    data = event.get("data")
    return data if isinstance(data, dict) else {}
