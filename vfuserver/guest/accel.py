"""Which accelerator QEMU gets: KVM where it really runs our guests, else TCG.

A /dev/kvm that opens proves little, and even a guest's firmware proves little: there are (nested) machines whose KVM
runs a boot sector and stops in the middle of a Linux kernel with an internal error. So the guest's own kernel is
started with it, once per boot of this machine, without any root: it works if the kernel gets so far as to miss that.
"""

import os
import selectors
import subprocess
import time
from pathlib import Path
from typing import IO, Literal, cast

from vfuserver.errors import UsageError
from vfuserver.guest.boot import soonest
from vfuserver.guest.cache import remembered
from vfuserver.guest.obtain import Kernel, Qemu

Accel = Literal["kvm", "tcg"]

_SECONDS = 10.0
_WORKS = b"Kernel panic - not syncing: VFS"
_BROKEN = (b"KVM internal error", b"emulation failure", b"failed to initialize kvm", b"Could not access KVM")


def choose_accel(qemu: Qemu, kernel: Kernel) -> Accel:
    """`kvm` if `qemu` runs `kernel` with it on this machine, else `tcg`; VFUSERVER_ACCEL=kvm|tcg decides instead."""
    forced = os.environ.get("VFUSERVER_ACCEL")
    if forced:
        if forced not in ("kvm", "tcg"):
            raise UsageError(f"VFUSERVER_ACCEL must be kvm or tcg, not {forced}")
        return cast(Accel, forced)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = f"{boot} {os.getuid()} {' '.join(qemu.command)}"
    works = remembered("kvm", key, lambda: runs_kernel(qemu, kernel, "kvm"))
    return "kvm" if works else "tcg"


def runs_kernel(qemu: Qemu, kernel: Kernel, accel: Accel) -> bool:
    """Whether `qemu` with `accel` brings `kernel` to the point where it looks for its root. Takes at most 10 s."""
    words = [*qemu.command, "-machine", "q35", "-accel", accel, "-cpu", "max", "-m", "256M", "-nodefaults"]
    words += ["-display", "none", "-no-reboot", "-serial", "stdio"]
    words += ["-kernel", str(soonest(kernel.image)), "-append", "console=ttyS0 panic=-1"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            return _verdict(process.stdout)
        finally:
            process.kill()


def _verdict(output: IO[bytes]) -> bool:
    """True at the kernel's last words; False at QEMU's complaint, at the end of output, or when time is up."""
    deadline = time.monotonic() + _SECONDS
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            block = os.read(output.fileno(), 1 << 16)
            seen += block
            if _WORKS in seen:
                return True
            if not block or any(words in seen for words in _BROKEN):
                return False
    return False
