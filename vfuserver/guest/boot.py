"""QEMU's words that start a Linux guest: its kernel, unpacked on the host where that can be done, and its command line.

A packed kernel (bzImage) unpacks itself in the guest, which takes seconds under TCG. The ELF image in it is what QEMU
can enter directly, by Xen's PVH note; it is unpacked here once and stays in the cache. What the guest is for, and what
runs in it, this module must not know.
"""

import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from vfuserver.guest.cache import cache_dir, digest, write_once
from vfuserver.guest.errors import GuestError
from vfuserver.guest.obtain import Kernel

WORDS = ("console=ttyS0", "tsc=reliable", "no_timer_check", "cryptomgr.notests")
"""What every guest's kernel is told: its console; not to compare QEMU's clocks and timers with each other, which fails
on a busy host, and with several processors can hang (the watchdog of clock sources in Linux 7.3 gives the other
processor as long as the jiffies say that it counts itself, in a softirq); and not to test its ciphers."""

# Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"
_SECTORS_AT, _SECTOR = 0x1F1, 512
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_PAYLOAD_AT = 0x248
_HEADER_BYTES = 0x250

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_NOTE_SEGMENT = 4
_XEN, _PHYS32_ENTRY = b"Xen\0", 18
"""Name and type of the note that says where PVH enters (include/xen/interface/elfnote.h)."""


def boot_words(kernel: Kernel, initramfs: Path, arguments: Sequence[str]) -> list[str]:
    """-kernel, -initrd and -append for `kernel`, which is told WORDS and then `arguments`."""
    append = " ".join((*WORDS, *arguments))
    return ["-kernel", str(soonest(kernel.image)), "-initrd", str(initramfs), "-append", append]


def soonest(image: Path) -> Path:
    """What QEMU starts `image` with soonest: the ELF image in it, from the cache, or else `image` itself.

    It is `image` where that is no bzImage, is packed in a way that is not known here, or cannot be entered by PVH.
    GuestError when it is damaged.
    """
    target = cache_dir() / "kernel" / f"{digest([image])}.elf"
    if target.is_file():
        return target
    try:
        elf = unpacked(image.read_bytes())
        enters = (_XEN, _PHYS32_ENTRY) in notes(elf)
    except Exception as error:  # each of the libraries has exceptions of its own
        raise GuestError(f"the kernel {image} cannot be unpacked: {error}; it is damaged") from error
    return write_once(target, lambda: elf) if enters else image


def unpacked(image: bytes) -> bytes:
    """The ELF image (64 bits, little endian) in a bzImage; empty if there is none that can be unpacked here.

    An exception of zlib, lzma or zstandard when the packed image is damaged; EOFError when it is cut.
    """
    if len(image) < _HEADER_BYTES or not image.startswith(_MAGIC, _MAGIC_AT):
        return b""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = ((image[_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = image[start : start + length]
    unpacker = next((make() for magic, make in _UNPACKERS.items() if payload.startswith(magic)), None)
    if unpacker is None:
        return b""
    elf = unpacker.decompress(payload)  # behind the packed image may be more, its size
    if not unpacker.eof:
        raise EOFError("it ends too early")
    return elf if elf.startswith(_ELF64_LITTLE) else b""


def notes(elf: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and type of each note of an ELF image of 64 bits, little endian; none if it is empty."""
    if not elf:
        return
    table, size, count = *struct.unpack_from("<Q", elf, 0x20), *struct.unpack_from("<HH", elf, 0x36)
    for at in range(table, table + size * count, size):
        if struct.unpack_from("<I", elf, at)[0] != _NOTE_SEGMENT:
            continue
        note, length = struct.unpack_from("<Q16xQ", elf, at + 8)
        end = note + length
        while note < end:
            name, described, kind = struct.unpack_from("<III", elf, note)
            yield elf[note + 12 : note + 12 + name], kind
            note += 12 + _padded(name) + _padded(described)


def _padded(length: int) -> int:
    return -(-length // 4) * 4


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Unpacker:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _zstd() -> _Unpacker | None:
    """None without the package zstandard, of the extra `guest`: the guest then unpacks its kernel itself."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard.ZstdDecompressor().decompressobj()


_UNPACKERS: dict[bytes, Callable[[], _Unpacker | None]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
}
