"""Programs of Debian's packages with the shared libraries they need: to put into a guest, or to start from the cache.

Only what the ELF files name (DT_NEEDED) is taken: a package's closure holds much more. It fetches nothing and knows
neither what the programs do nor who runs them.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from vfuserver.guest.errors import ToolError

_HEADER: Final = struct.Struct("<40xQ10xHH")  # e_shoff, e_shentsize, e_shnum
_SECTION: Final = struct.Struct("<IIQQQQI")  # name, type, flags, address, offset, size, link
_ENTRY: Final = struct.Struct("<QQ")  # d_tag, d_val
_SHT_DYNAMIC: Final = 6
_DT_NEEDED: Final = 1


def loader(root: Path) -> tuple[str, ...]:
    """The words that start a program below `root` with root's own C library; ToolError if there is none."""
    loaders = [*root.glob("usr/lib*/ld-linux-*.so.*"), *root.glob("lib*/ld-linux-*.so.*")]
    libraries = _library_folders(root)
    if not loaders or not libraries:
        raise ToolError(f"no C library among the packages unpacked in {root}")
    return (str(loaders[0]), "--library-path", ":".join(map(str, libraries)))


def with_libraries(root: Path, programs: Sequence[str]) -> dict[str, Path]:
    """Where the guest has to have the `programs` (paths below `root`), their libraries and the loader.

    Programs go to /bin, the rest where the loader looks for it. ToolError for a library that is not below `root`.
    """
    files = {f"/bin/{Path(program).name}": root / program for program in programs}
    waiting = [root / program for program in programs]
    while waiting:
        for name in needed(waiting.pop()):
            place = _place(name)
            if place not in files:
                files[place] = _library(root, name)
                waiting.append(files[place])
    return files


def needed(path: Path) -> list[str]:
    """The shared libraries that a 64-bit little-endian ELF file names; ToolError if it is none."""
    content = path.read_bytes()
    try:
        return list(_needed(content))
    except (struct.error, ValueError, IndexError) as error:
        raise ToolError(f"{path} is no 64-bit ELF file: {error}") from None


def _needed(content: bytes) -> Iterator[str]:
    if not content.startswith(b"\x7fELF\x02\x01"):
        raise ValueError("its first bytes are others")
    start, size, count = _HEADER.unpack_from(content)
    sections = [_SECTION.unpack_from(content, start + size * index) for index in range(count)]
    for _, kind, _, _, offset, length, link in sections:
        if kind != _SHT_DYNAMIC:
            continue
        names = sections[link][4]
        for tag, value in _ENTRY.iter_unpack(content[offset : offset + length]):
            if tag == _DT_NEEDED:
                yield content[names + value : content.index(b"\0", names + value)].decode()


def _library_folders(root: Path) -> list[Path]:
    return sorted({path.parent for path in root.glob("usr/lib/*/libc.so.6")})


def _library(root: Path, name: str) -> Path:
    for folder in _library_folders(root):
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise ToolError(f"the packages unpacked in {root} have no {name}")


def _place(name: str) -> str:
    """The loader stands where every program names it, the libraries in its first folder."""
    return f"/lib64/{name}" if name.startswith("ld-linux") else f"/lib/{name}"
