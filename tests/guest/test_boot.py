"""The kernel that QEMU starts: unpacked where that can be done, itself otherwise. Nothing is booted here."""

import gzip
import lzma
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from vfuserver.guest.boot import WORDS, boot_words, notes, soonest
from vfuserver.guest.errors import GuestError
from vfuserver.guest.obtain import Kernel

PHYS32_ENTRY, FEATURES = 18, 17
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


def note(name: bytes, kind: int, description: bytes) -> bytes:
    padded = [part + bytes(-len(part) % 4) for part in (name, description)]
    return struct.pack("<III", len(name), len(description), kind) + b"".join(padded)


def elf(*found: bytes) -> bytes:
    """An ELF image with a segment to load and one with the notes `found`."""
    content = b"".join(found)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    start = 64 + 2 * 56
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, start, start, 4096)
    noted = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(content), len(content), 4)
    return identity + header + load + noted + content


def bzimage(payload: bytes, sectors: int = 3) -> bytes:
    """A boot sector, `sectors` of set-up (0: 4), a loader of 100 bytes, the packed image with its size behind it."""
    head = bytearray(512 * ((sectors or 4) + 1))
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 100, len(payload) + 4)
    return bytes(head) + bytes(100) + payload + struct.pack("<I", 0x123456) + b"what follows"


ENTERED = elf(note(b"Linux\0", 257, b"\0\0\0"), note(b"Xen\0", PHYS32_ENTRY, bytes(4)), note(b"GNU\0", 3, bytes(20)))
NOT_ENTERED = elf(note(b"Xen\0", FEATURES, bytes(4)), note(b"Linux\0", PHYS32_ENTRY, b""))


@pytest.mark.parametrize("sectors", [3, 0])
@pytest.mark.parametrize("packer", PACKERS)
def test_image_in_a_kernel_is_unpacked_once(packer: str, sectors: int, empty_cache: Path, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(PACKERS[packer](ENTERED), sectors))
    first = soonest(image)
    assert first.read_bytes() == ENTERED
    before = first.stat()
    assert (soonest(image), first.stat()) == (first, before)


def test_kernel_of_other_content_is_another(empty_cache: Path, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(gzip.compress(ENTERED)))
    first = soonest(image)
    image.write_bytes(bzimage(gzip.compress(ENTERED + b"newer")))
    assert soonest(image).read_bytes() == ENTERED + b"newer"
    assert first.read_bytes() == ENTERED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        ENTERED,
        b"\x7fELF" + bytes(1000),
        bzimage(b"\x04\x22\x4d\x18" + bytes(100)),  # lz4
        bzimage(gzip.compress(NOT_ENTERED)),
        bzimage(gzip.compress(b"no ELF image")),
        bzimage(gzip.compress(b"\x7fELF\x01\x01" + bytes(100))),  # 32 bits
    ],
    ids=["empty", "ELF itself", "nothing", "lz4", "no PVH", "no ELF", "32 bits"],
)
def test_what_cannot_be_unpacked_or_entered_is_started_itself(
    content: bytes, empty_cache: Path, tmp_path: Path
) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(content)
    assert soonest(image) == image


def test_without_zstandard_the_guest_unpacks_its_kernel_itself(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(zstandard.compress(ENTERED)))
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "zstandard", None)
        assert soonest(image) == image
    assert soonest(image).read_bytes() == ENTERED


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "changed"])
def test_damaged_kernel_is_named(packer: str, cut: bool, empty_cache: Path, tmp_path: Path) -> None:
    packed = PACKERS[packer](ENTERED)
    damaged = packed[:-20] if cut else packed[:20] + bytes(byte ^ 0xFF for byte in packed[20:])
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(damaged).removesuffix(b"\x56\x34\x12\0what follows"))
    with pytest.raises(GuestError, match=rf"the kernel {image} cannot be unpacked: .+; it is damaged"):
        soonest(image)


def test_notes_have_names_and_kinds() -> None:
    assert list(notes(ENTERED)) == [(b"Linux\0", 257), (b"Xen\0", PHYS32_ENTRY), (b"GNU\0", 3)]


def test_guest_is_told_what_it_must_not_measure_and_then_what_was_asked(empty_cache: Path, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"of another kind")
    words = boot_words(Kernel(image, None, "named"), tmp_path / "initramfs", ("quiet", "panic=-1"))
    assert words == [
        *("-kernel", str(image), "-initrd", str(tmp_path / "initramfs")),
        *("-append", f"{' '.join(WORDS)} quiet panic=-1"),
    ]
    assert {"tsc=reliable", "no_timer_check"} <= set(WORDS)
