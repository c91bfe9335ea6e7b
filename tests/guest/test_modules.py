"""Module dependencies, from files that carry the same .modinfo strings as real modules do."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from vfuserver.guest.errors import GuestError
from vfuserver.guest.modules import ModuleTree

PACK: dict[str, Callable[[bytes], bytes]] = {".ko": bytes, ".ko.xz": lzma.compress, ".ko.gz": gzip.compress}


def module(folder: Path, file: str, depends: str = "", softdep: str = "") -> None:
    info = [b"license=GPL", b"depends=" + depends.encode()]
    if softdep:
        info.append(b"softdep=" + softdep.encode())
    content = b"\x7fELF\0" + b"\0".join(info) + b"\0"
    path = folder / "kernel" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PACK["." + file.partition(".")[2]](content))


def names(tree: ModuleTree, *wanted: str) -> list[str]:
    return [found.name for found in tree.load_order(wanted)]


def test_load_order_puts_what_a_module_needs_before_it(tmp_path: Path) -> None:
    module(tmp_path, "a/gpio-pci-idio-16.ko.xz", depends="gpio_idio_16")
    module(tmp_path, "a/gpio-idio-16.ko.gz", depends="gpio_regmap,other")
    module(tmp_path, "gpio-regmap.ko")
    module(tmp_path, "other.ko", depends="gpio_regmap")
    order = names(ModuleTree(tmp_path), "gpio_pci_idio_16")
    assert order == ["gpio_regmap", "other", "gpio_idio_16", "gpio_pci_idio_16"]


def test_load_order_of_a_module_wanted_twice_has_it_once(tmp_path: Path) -> None:
    module(tmp_path, "one-two.ko")
    module(tmp_path, "three.ko", depends="one_two")
    assert names(ModuleTree(tmp_path), "one-two", "three", "one_two") == ["one_two", "three"]


def test_load_order_of_a_cycle_ends(tmp_path: Path) -> None:
    module(tmp_path, "a.ko", depends="b")
    module(tmp_path, "b.ko", depends="a")
    assert names(ModuleTree(tmp_path), "a") == ["b", "a"]


def test_soft_dependency_comes_first_if_it_exists(tmp_path: Path) -> None:
    module(tmp_path, "nvme.ko", softdep="pre: crc absent post: later")
    module(tmp_path, "crc.ko")
    module(tmp_path, "later.ko")
    assert names(ModuleTree(tmp_path), "nvme") == ["crc", "nvme"]


def test_built_in_module_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/drivers/tty/serial/8250/8250-base.ko\n")
    module(tmp_path, "driver.ko", depends="8250_base")
    assert names(ModuleTree(tmp_path), "driver", "8250-base") == ["driver"]


def test_absent_module_is_named_with_who_needs_it(tmp_path: Path) -> None:
    module(tmp_path, "driver.ko", depends="gone")
    with pytest.raises(GuestError, match=r"has no module gone \(needed by driver\)"):
        ModuleTree(tmp_path).load_order(["driver"])


def test_module_is_unpacked_and_placed_without_its_packing(tmp_path: Path) -> None:
    module(tmp_path, "drivers/gpio/x.ko.xz")
    (found,) = ModuleTree(tmp_path).load_order(["x"])
    assert found.path == "kernel/drivers/gpio/x.ko"
    assert found.content.startswith(b"\x7fELF")
