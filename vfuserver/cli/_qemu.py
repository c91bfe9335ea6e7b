"""What QEMU's words mean to us: ids, boot media, consoles. It must not start QEMU."""

import re
from collections.abc import Iterable, Sequence

_BOOT_MEDIA = re.compile(
    r"--?(kernel|drive|blockdev|hd[abcd]|cdrom|fd[ab]|sd|pflash|mtdblock|bios|boot|loadvm|incoming)"
)
_CONSOLES = re.compile(r"--?(nographic|serial|nodefaults|monitor|display|vnc|spice)")
_ACCELERATORS = re.compile(r"--?(accel|enable-kvm)")


def qemu_id(name: str) -> str:
    """A name that QEMU takes as an id: a letter first, then letters, digits, - . and _ (qdev's rule)."""
    legal = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return legal if legal[:1].isalpha() else f"dev-{legal}"


def brings_boot_medium(words: Iterable[str]) -> bool:
    """True if a person's own words say what is booted."""
    return any(map(_BOOT_MEDIA.fullmatch, words))


def has_console(words: Sequence[str]) -> bool:
    """True if they say where the console is."""
    return any(map(_CONSOLES.fullmatch, words))


def has_accelerator(words: Sequence[str]) -> bool:
    """True if they choose the accelerator."""
    return any(map(_ACCELERATORS.fullmatch, words))
