"""What a program of a package needs. That it then runs in a guest, tests/system prove with lspci."""

import struct
from pathlib import Path

import pytest

from vfuserver import _core
from vfuserver.guest.errors import ToolError
from vfuserver.guest.programs import loader, needed, with_libraries

CORE = Path(_core.__file__)
LOADER = "ld-linux-x86-64.so.2"


def elf(*names: str) -> bytes:
    """A file of two sections, which names the libraries it needs (System V ABI, chapters 4 and 5)."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    offsets = [strings.index(name.encode()) for name in names]
    dynamic = b"".join(struct.pack("<QQ", 1, offset) for offset in offsets) + bytes(16)
    sections = struct.pack("<IIQQQQIIQQ", 0, 6, 0, 0, 64, len(dynamic), 1, 0, 8, 16)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64 + len(dynamic), len(strings), 0, 0, 1, 0)
    table = 64 + len(dynamic) + len(strings)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 2, 1)
    return header + dynamic + strings + sections


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Unpacked packages: a program that needs a library, which needs another, and both the C library."""
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    needs = {
        tmp_path / "usr/bin/program": ("libone.so.1", "libc.so.6"),
        libraries / "libone.so.1": ("libtwo.so.2", "libc.so.6"),
        libraries / "libtwo.so.2": ("libone.so.1", "libc.so.6"),
        libraries / "libc.so.6": (LOADER,),
        libraries / LOADER: (),
        libraries / "libmore.so": ("libmissing.so",),
        tmp_path / "usr/lib64" / LOADER: (),
    }
    for path, names in needs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(elf(*names))
    return tmp_path


def test_needed_of_a_shared_library_names_the_c_library() -> None:
    assert "libc.so.6" in needed(CORE)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", CORE.read_bytes()[:100], CORE.read_bytes()[:-100]])
def test_needed_of_what_is_no_whole_elf_file_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ToolError, match="file is no 64-bit ELF file"):
        needed(tmp_path / "file")


def test_program_goes_to_bin_and_all_it_needs_where_the_loader_looks(root: Path) -> None:
    libraries = root / "usr/lib/x86_64-linux-gnu"
    assert with_libraries(root, ["usr/bin/program"]) == {
        "/bin/program": root / "usr/bin/program",
        "/lib/libone.so.1": libraries / "libone.so.1",
        "/lib/libtwo.so.2": libraries / "libtwo.so.2",
        "/lib/libc.so.6": libraries / "libc.so.6",
        f"/lib64/{LOADER}": libraries / LOADER,
    }


def test_library_that_is_not_among_the_packages_is_named(root: Path) -> None:
    (root / "usr/lib/x86_64-linux-gnu/libtwo.so.2").unlink()
    with pytest.raises(ToolError, match=r"have no libtwo\.so\.2"):
        with_libraries(root, ["usr/bin/program"])


def test_loader_starts_with_the_packages_own_libraries(root: Path) -> None:
    folder = root / "usr/lib/x86_64-linux-gnu"
    assert loader(root) == (str(root / "usr/lib64" / LOADER), "--library-path", str(folder))


def test_loader_of_packages_without_a_c_library_says_so(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no C library"):
        loader(tmp_path)
