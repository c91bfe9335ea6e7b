"""Find, or fetch from Debian, what a guest needs: QEMU with vfio-user-pci, a stock kernel, busybox.

The order is always: the variable a person has set, what the machine has, the cache, a fetch. Nothing is installed and
no version is written down; what was fetched stays until the cache folder is removed. This module must not know what a
guest is for, nor how it is booted.
"""

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vfuserver.guest.apt import SUITE, PrivateApt, machine_architecture, unpack
from vfuserver.guest.cache import cache_dir, make_once, remembered
from vfuserver.guest.errors import ObtainError, ToolError
from vfuserver.guest.programs import loader
from vfuserver.guest.progress import progress

KernelKind = Literal["stock", "vfio"]

QEMU_MINIMUM = (10, 1)
"""The first QEMU version that has the client device vfio-user-pci."""

_DEVICE = "vfio-user-pci"
_PROGRAM = "qemu-system-x86_64"
_QEMU_PACKAGES = ("qemu-system-x86", "seabios", "ipxe-qemu")
_KERNEL_PACKAGES = ("linux-image-amd64",)
_KERNEL_PARTS = re.compile(r"^linux-(image|binary|modules|base)-\d")
_BUSYBOX_PACKAGES = ("busybox-static",)
GUEST_ARCHITECTURE = "amd64"
"""Debian's name of the guests' architecture."""

_ROOM_FOR_UNPACKING = 6
"""Times the size of the packages: what must be free for them and for what they unpack to."""

_ROOM_FOR_INDEXES = 250_000_000
"""Bytes that apt needs for the suite's indexes and its caches of them."""

_ADVICE = {
    "qemu": f"Install QEMU >= 10.1 (Debian: qemu-system-x86 of {SUITE} or newer), or set VFUSERVER_QEMU to its "
    f"{_PROGRAM}.",
    "kernel": "Set VFUSERVER_GUEST_KERNEL to a bootable amd64 kernel image and VFUSERVER_GUEST_MODULES to its folder "
    "/lib/modules/VERSION.",
    "busybox": f"Its package is busybox-static of {SUITE}.",
    "pciutils": f"Its package is pciutils of {SUITE}.",
    "linux-source": "Set VFUSERVER_VFIO_KERNEL to a bzImage built from vfuserver/guest/kernel.config.",
}


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU that has vfio-user-pci: the words that start it, before any option of a machine."""

    command: tuple[str, ...]
    version: str
    origin: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel image and the folder /lib/modules/VERSION that belongs to it (None: everything is built in)."""

    image: Path
    modules: Path | None
    origin: str


# ---- QEMU ----------------------------------------------------------------------------------------------------------


def find_qemu() -> Qemu:
    """QEMU >= 10.1: VFUSERVER_QEMU, the one on PATH if it will do, else fetched. ObtainError says what to do."""
    if named := os.environ.get("VFUSERVER_QEMU"):
        return _named_qemu(named)
    if (found := shutil.which(_PROGRAM)) and (qemu := _examined((found,), f"found on PATH: {found}")):
        return qemu
    root = fetch_packages("qemu", _QEMU_PACKAGES, machine_architecture, check=_check_unpacked_qemu)
    qemu = _examined(_unpacked_command(root), f"fetched into {root}")
    if qemu is None:
        raise ObtainError(f"the QEMU in {root} does not start any more; remove that folder. {_ADVICE['qemu']}")
    return qemu


def _named_qemu(named: str) -> Qemu:
    if not os.access(named, os.X_OK) or os.path.isdir(named):
        raise ObtainError(f"VFUSERVER_QEMU is {named}, which is no program that can be started. {_ADVICE['qemu']}")
    qemu = _examined((named,), f"VFUSERVER_QEMU: {named}")
    if qemu is None:
        raise ObtainError(f"VFUSERVER_QEMU is {named}, which is older than 10.1 or has no {_DEVICE}. {_ADVICE['qemu']}")
    return qemu


def _examined(command: tuple[str, ...], origin: str) -> Qemu | None:
    """The QEMU that `command` starts, or None if it will not do. Asked once per program file and remembered."""
    stat = os.stat(command[-1] if len(command) == 1 else _program_of(command))
    key = f"{command} {stat.st_mtime_ns} {stat.st_size}"
    name = f"qemu-{zlib.crc32(command[-1].encode()):08x}"
    version = remembered(name, key, lambda: _ask_qemu(command))
    return Qemu(command, version, origin) if version else None


def _program_of(command: tuple[str, ...]) -> str:
    return next(word for word in command if word.endswith(_PROGRAM))


def _ask_qemu(command: tuple[str, ...]) -> str | None:
    """The version, if it is new enough and has the device."""
    try:
        banner = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
        devices = subprocess.run(
            [*command, "-device", "help"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"version (\d+)\.(\d+)(\.\d+)?", banner)
    if match is None or (int(match[1]), int(match[2])) < QEMU_MINIMUM or f'"{_DEVICE}"' not in devices:
        return None
    return match[0].removeprefix("version ")


def _unpacked_command(root: Path) -> tuple[str, ...]:
    """How an unpacked QEMU is started with its own C library and its own firmware."""
    data = [root / "usr/share/qemu", root / "usr/share/seabios", root / "usr/lib/ipxe/qemu"]
    return (*loader(root), str(root / "usr/bin" / _PROGRAM), *(word for path in data for word in ("-L", str(path))))


def _check_unpacked_qemu(root: Path) -> None:
    if _ask_qemu(_unpacked_command(root)) is None:
        raise ToolError(f"the QEMU of {SUITE} does not start here or has no {_DEVICE}")


# ---- kernels and busybox -------------------------------------------------------------------------------------------


def find_kernel(kind: KernelKind = "stock") -> Kernel:
    """The guest's kernel: `stock` is Debian's, `vfio` the project's own with iommufd and everything built in."""
    return find_vfio_kernel() if kind == "vfio" else _stock_kernel()


def _stock_kernel() -> Kernel:
    image, modules = os.environ.get("VFUSERVER_GUEST_KERNEL"), os.environ.get("VFUSERVER_GUEST_MODULES")
    if image and modules:
        return Kernel(_existing("VFUSERVER_GUEST_KERNEL", image), _existing("VFUSERVER_GUEST_MODULES", modules), "set")
    if image or modules:
        raise ObtainError(f"VFUSERVER_GUEST_KERNEL and VFUSERVER_GUEST_MODULES go together. {_ADVICE['kernel']}")
    root = fetch_packages(
        "kernel", _KERNEL_PACKAGES, lambda: GUEST_ARCHITECTURE, lambda n: bool(_KERNEL_PARTS.match(n))
    )
    folder = next((path.parent for path in root.glob("usr/lib/modules/*/kernel")), None)
    images = [*root.glob("usr/lib/modules/*/vmlinuz"), *root.glob("boot/vmlinuz-*")]
    if folder is None or not images:
        raise ObtainError(f"the packages in {root} hold no kernel; remove that folder. {_ADVICE['kernel']}")
    return Kernel(images[0], folder, f"fetched into {root}")


def find_vfio_kernel() -> Kernel:
    """The project's own kernel: VFUSERVER_VFIO_KERNEL, the one built into the cache, or one beside the project."""
    if named := os.environ.get("VFUSERVER_VFIO_KERNEL"):
        return Kernel(_existing("VFUSERVER_VFIO_KERNEL", named), None, "VFUSERVER_VFIO_KERNEL")
    built = cache_dir() / "vfio-kernel" / "bzImage"
    checkout = Path(__file__).parents[2]
    beside = checkout.parent / "shared" / "guest" / "bzImage"  # a convenience for the project's own tests
    for path in (built, beside if (checkout / "pyproject.toml").is_file() else built):
        if path.is_file():
            return Kernel(path, None, str(path))
    raise ObtainError(
        "there is no guest kernel with iommufd and the VFIO cdev (Debian's has neither). Build it, which takes some "
        "minutes: `vfuserver guest build-kernel`, or set VFUSERVER_VFIO_KERNEL to a bzImage built from "
        "vfuserver/guest/kernel.config."
    )


def find_busybox() -> Path:
    """A static busybox for the guest, fetched from Debian."""
    root = fetch_packages("busybox", _BUSYBOX_PACKAGES, lambda: GUEST_ARCHITECTURE)
    for path in (root / "usr/bin/busybox", root / "bin/busybox"):
        if path.is_file():
            return path
    raise ObtainError(f"the package in {root} holds no busybox; remove that folder. {_ADVICE['busybox']}")


def _existing(variable: str, value: str) -> Path:
    path = Path(value).absolute()
    if not path.exists():
        raise ObtainError(f"{variable} is {value}, which does not exist")
    return path


# ---- fetching ------------------------------------------------------------------------------------------------------


def fetched(what: str) -> Path | None:
    """The cache folder of `what` if it was fetched before; asks nobody."""
    folder = cache_dir() / SUITE / what
    return folder if folder.is_dir() else None


def fetch_packages(
    what: str,
    names: tuple[str, ...],
    architecture: Callable[[], str],
    keep: Callable[[str], bool] = lambda name: True,
    check: Callable[[Path], None] = lambda root: None,
) -> Path:
    """The cache folder with the closure of the packages `names` unpacked, fetched once.

    `what` names it, and is a key of the advice that an ObtainError gives. `keep` drops packages by name, `check` may
    refuse what was unpacked (ToolError).
    """

    def make(scratch: Path, result: Path) -> None:
        _check_room(scratch, _ROOM_FOR_INDEXES)  # apt-get update on a full disk waits for ever
        apt = PrivateApt(scratch, architecture())
        with progress(f"reading the package lists of {SUITE}"):
            apt.update()
        packages = apt.closure(names, keep)
        size = sum(package.size for package in packages)
        _check_room(scratch, _ROOM_FOR_UNPACKING * size)
        with progress(f"fetching {what} ({len(packages)} packages, {size / 1e6:.0f} MB)") as report:
            archives = apt.download(packages, report)
        for archive in archives:
            unpack(archive, result)
        check(result)

    with _explained(what):
        return make_once(f"{SUITE}/{what}", make)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever stops a fetch into one ObtainError that says what to do instead."""
    try:
        yield
    except ToolError as error:
        raise ObtainError(f"cannot fetch {what}: {error}. {_ADVICE[what]}") from error
    except OSError as error:
        place = f"{cache_dir()} (VFUSERVER_CACHE names another folder)"
        raise ObtainError(f"cannot fetch {what} into {place}: {error.strerror}. {_ADVICE[what]}") from error


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ToolError(
            f"{needed / 1e6:.0f} MB are needed in {cache_dir()} and {free / 1e6:.0f} MB are free "
            "(VFUSERVER_CACHE names another folder)"
        )
