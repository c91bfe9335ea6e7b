"""The modules of a kernel package: where they are, what each one needs, and the order to load them in.

Debian's packages bring no modules.dep (depmod makes it at installation), but every module carries its own
dependencies in its .modinfo section (`depends=`, `softdep=pre:`), as modinfo(8) shows them: that is read here, only
for the modules that are wanted. It loads nothing and knows no guest.
"""

import gzip
import lzma
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vfuserver.guest.errors import GuestError

_FILE = re.compile(r"^(?P<name>.+)\.ko(?P<packed>\.xz|\.gz)?$")
_UNPACK: dict[str | None, Callable[[bytes], bytes]] = {None: bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}


def normalized(name: str) -> str:
    """A module's name as the kernel compares it: dashes and underscores are the same."""
    return name.removesuffix(".ko").replace("-", "_")


@dataclass(frozen=True, slots=True)
class Module:
    """One unpacked module: `path` below /lib/modules/VERSION, the ELF file, the names it needs first."""

    name: str
    path: str
    content: bytes
    needs: tuple[str, ...]


class ModuleTree:
    """The folder /lib/modules/VERSION of one kernel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Module] = {}

    @property
    def release(self) -> str:
        """The kernel release that the folder belongs to (its name, as `uname -r` gives it)."""
        return self._folder.name

    @cached_property
    def _files(self) -> dict[str, Path]:
        candidates = (path for path in self._folder.rglob("*.ko*") if _FILE.match(path.name))
        return {normalized(path.name.partition(".ko")[0]): path for path in candidates}

    @cached_property
    def _built_in(self) -> set[str]:
        listing = self._folder / "modules.builtin"
        lines = listing.read_text().splitlines() if listing.is_file() else []
        return {normalized(Path(line).name) for line in lines}

    def load_order(self, names: Iterable[str]) -> list[Module]:
        """The modules `names` and everything they need, each after what it needs; built-in ones are left out.

        GuestError names a module that the kernel does not have.
        """
        order: dict[str, Module] = {}
        for name in names:
            self._visit(normalized(name), order, ())
        return list(order.values())

    def _visit(self, name: str, order: dict[str, Module], above: tuple[str, ...]) -> None:
        if name in order or name in above or (name not in self._files and name in self._built_in):
            return
        module = self._module(name, above)
        for needed in module.needs:
            self._visit(needed, order, (*above, name))
        order[name] = module

    def _module(self, name: str, above: tuple[str, ...]) -> Module:
        if name not in self._read:
            path = self._files.get(name)
            if path is None:
                wanted_by = f" (needed by {above[-1]})" if above else ""
                raise GuestError(f"kernel {self.release} has no module {name}{wanted_by}, and it is not built in")
            self._read[name] = self._load(name, path)
        return self._read[name]

    def _load(self, name: str, path: Path) -> Module:
        match = _FILE.match(path.name)
        assert match is not None
        content = _UNPACK[match["packed"]](path.read_bytes())
        relative = path.relative_to(self._folder).with_name(f"{match['name']}.ko")
        needs = [needed for needed in _needs(content) if not self._is_absent_soft(needed, content)]
        return Module(name, str(relative), content, tuple(needs))

    def _is_absent_soft(self, needed: str, content: bytes) -> bool:
        """A soft dependency that this kernel does not have is none."""
        return needed not in _field(content, b"depends") and needed not in self._files


def _needs(content: bytes) -> list[str]:
    soft = " ".join(_strings(content, b"softdep"))
    before = re.findall(r"pre:\s*((?:(?!post:|pre:)\S+\s*)*)", soft)
    return _field(content, b"depends") + [normalized(name) for part in before for name in part.split()]


def _field(content: bytes, name: bytes) -> list[str]:
    return [normalized(word) for value in _strings(content, name) for word in value.split(",") if word]


def _strings(content: bytes, name: bytes) -> list[str]:
    """The values of `name=` in .modinfo, which holds NUL-terminated strings."""
    return [value.decode() for value in re.findall(rb"\0" + name + rb"=([^\0]*)\0", content)]
