"""The cpio writer, read back by a parser of the format that was written for this test only."""

import stat
from dataclasses import dataclass

from vfuserver.guest.cpio import Archive


@dataclass
class Entry:
    mode: int
    content: bytes
    device: tuple[int, int]


def parsed(image: bytes) -> dict[str, Entry]:
    """Linux, Documentation/driver-api/early-userspace/buffer-format.rst: 6 + 13 * 8 hexadecimal digits, padded to 4."""
    entries: dict[str, Entry] = {}
    at = 0
    while True:
        assert image[at : at + 6] == b"070701"
        fields = [int(image[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = image[at + 110 : at + 110 + fields[11] - 1].decode()
        start = (at + 110 + fields[11] + 3) & ~3
        at = (start + fields[6] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(image)
            return entries
        entries[name] = Entry(fields[1], image[start : start + fields[6]], (fields[9], fields[10]))


def test_file_in_a_folder_makes_the_folders_above_first() -> None:
    archive = Archive()
    archive.file("/lib/modules/x.ko", b"12345", 0o644)
    entries = parsed(archive.image())
    assert list(entries) == ["lib", "lib/modules", "lib/modules/x.ko"]
    assert entries["lib"].mode == stat.S_IFDIR | 0o755
    assert entries["lib/modules/x.ko"] == Entry(stat.S_IFREG | 0o644, b"12345", (0, 0))


def test_folder_added_twice_is_there_once() -> None:
    archive = Archive()
    archive.folder("/dev")
    archive.character_device("/dev/console", 5, 1)
    archive.folder("/dev/")
    assert parsed(archive.image()) == {
        "dev": Entry(stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dev/console": Entry(stat.S_IFCHR | 0o600, b"", (5, 1)),
    }


def test_link_holds_its_target() -> None:
    archive = Archive()
    archive.link("/bin/sh", "busybox")
    assert parsed(archive.image())["bin/sh"] == Entry(stat.S_IFLNK | 0o777, b"busybox", (0, 0))


def test_contents_of_every_length_keep_their_bytes() -> None:
    archive = Archive()
    for length in range(9):
        archive.file(f"/{'n' * (length + 1)}", bytes(range(length)))
    assert [entry.content for entry in parsed(archive.image()).values()] == [bytes(range(n)) for n in range(9)]


def test_image_of_the_same_content_is_the_same() -> None:
    first, second = Archive(), Archive()
    for archive in (first, second):
        archive.file("/init", b"#!/bin/sh\n", 0o755)
    assert first.image() == second.image()
