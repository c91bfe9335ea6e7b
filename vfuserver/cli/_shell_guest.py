"""The guest of `vfuserver run` when nobody brings one: Debian's kernel (or the project's own) and a busybox shell.

It is the same kernel, busybox and initramfs as in tests; only what runs first is another script. It must not know
devices; their drivers come by --module, or by modprobe in the shell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

GuestKind = Literal["stock", "vfio", "none"]

FIRST = "/sbin/vfuserver-shell"
SPARE_MODULES = ("gpio-pci-idio-16", "pvpanic-pci", "vfio-pci", "vfio_iommu_type1", "uio_pci_generic")
"""What the stock guest's `modprobe` can load without having been asked for."""

SCRIPT = r"""#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
while read -r module; do insmod "$module"; done </etc/modules-to-load
echo
echo "A vfuserver guest. PCI functions, with their drivers:"
for at in /sys/bus/pci/devices/*; do
    driver=$(readlink $at/driver)
    echo "  ${at##*/} $(cut -c3- $at/vendor):$(cut -c3- $at/device) ${driver##*/}"
done
echo "pcitool reads and writes registers, modprobe loads drivers; exit (or Ctrl-A X) ends QEMU."
cd
setsid cttyhack sh
poweroff -f
"""


def shell_words(kind: GuestKind, modules: Sequence[str], kernel_arguments: Sequence[str], folder: Path) -> list[str]:
    """QEMU's words for kernel, initramfs and kernel command line; `folder` lives as long as QEMU's start.

    What is missing is fetched. GuestError: a module that the kernel does not have.
    """
    from vfuserver.guest.boot import boot_words
    from vfuserver.guest.initramfs import Contents, build_initramfs
    from vfuserver.guest.modules import ModuleTree
    from vfuserver.guest.obtain import find_busybox, find_kernel
    from vfuserver.guest.tools import build_tool

    kernel = find_kernel("vfio" if kind == "vfio" else "stock")
    first = folder / "first"
    first.write_text(SCRIPT)
    first.chmod(0o755)
    files = {FIRST: first, "/bin/pcitool": build_tool("pcitool")}
    tree = ModuleTree(kernel.modules) if kernel.modules else None
    initramfs = build_initramfs(Contents(find_busybox(), tree, tuple(modules), SPARE_MODULES, files))
    return boot_words(kernel, initramfs, ("quiet", "panic=-1", f"rdinit={FIRST}", *kernel_arguments))
