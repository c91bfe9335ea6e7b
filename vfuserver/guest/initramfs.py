"""The guest's initramfs: busybox, chosen kernel modules in their order, files, and an /init that serves commands.

It is built in Python (newc cpio, gzip), without being root, and cached by the content of everything in it. It boots
nothing; the protocol that /init speaks is that of channel.py.
"""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from vfuserver.guest.cache import cache_dir, digest, write_once
from vfuserver.guest.cpio import Archive
from vfuserver.guest.modules import Module, ModuleTree

_CONSOLE = (5, 1)
_EXECUTABLE = 0o755


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into an initramfs besides /init.

    `load` names the modules loaded at boot, in this order, each after what it needs; `spare` those that the guest may
    `modprobe` later. `files` maps a path in the guest to a file of the host; its execute permission is kept.
    """

    busybox: Path
    modules: ModuleTree | None = None
    load: Sequence[str] = ()
    spare: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def build_initramfs(contents: Contents) -> Path:
    """The initramfs (newc cpio, gzip) with `contents`, from the cache if it was ever built.

    GuestError when a module is not among the kernel's; OSError when a file is not there.
    """
    first, rest = _chosen(contents)
    init = resources.files("vfuserver.guest").joinpath("payload/init").read_bytes()
    parts: list[bytes | Path] = [init, contents.busybox]
    for module in (*first, None, *rest):
        parts += [module.path.encode(), module.content] if module else [b"spare"]
    for path, source in sorted(contents.files.items()):
        parts += [f"{path} {_mode(source):o}".encode(), source]
    target = cache_dir() / "initramfs" / f"{digest(parts)}.cpio.gz"
    return write_once(target, lambda: gzip.compress(_archive(contents, init, first, rest), 1, mtime=0))


def _chosen(contents: Contents) -> tuple[list[Module], list[Module]]:
    """The modules to load at boot in order, and the others."""
    if contents.modules is None:
        return [], []
    first = contents.modules.load_order(contents.load)
    names = {module.name for module in first}
    return first, [module for module in contents.modules.load_order(contents.spare) if module.name not in names]


def _archive(contents: Contents, init: bytes, first: list[Module], rest: list[Module]) -> bytes:
    archive = Archive()
    archive.folder("/dev")
    archive.character_device("/dev/console", *_CONSOLE)
    archive.file("/init", init, _EXECUTABLE)
    archive.file("/bin/busybox", contents.busybox.read_bytes(), _EXECUTABLE)
    archive.link("/bin/sh", "busybox")
    root = f"/lib/modules/{contents.modules.release}" if contents.modules else "/lib/modules"
    for module in first + rest:
        archive.file(f"{root}/{module.path}", module.content)
    archive.file(f"{root}/modules.dep", _modules_dep(first + rest).encode())
    archive.file("/etc/modules-to-load", "".join(f"{root}/{module.path}\n" for module in first).encode())
    for path, source in sorted(contents.files.items()):
        archive.file(path, source.read_bytes(), _mode(source))
    return archive.image()


def _modules_dep(modules: list[Module]) -> str:
    """The index that modprobe reads: each module with all it needs, nearest first."""
    known = {module.name: module for module in modules}

    def everything(module: Module) -> list[str]:
        found: dict[str, None] = {}
        for name in module.needs:
            if name in known:
                found[known[name].path] = None
                found.update(dict.fromkeys(everything(known[name])))
        return list(found)

    return "".join(f"{module.path}: {' '.join(everything(module))}\n" for module in modules)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
