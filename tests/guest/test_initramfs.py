"""The initramfs: what is in it, and when it is built again."""

import gzip
from pathlib import Path

import pytest

from tests.guest.test_cpio import parsed
from tests.guest.test_modules import module
from vfuserver.guest.initramfs import Contents, build_initramfs
from vfuserver.guest.modules import ModuleTree


@pytest.fixture
def contents(empty_cache: Path, tmp_path: Path) -> Contents:
    tree = tmp_path / "1.2.3-test"
    module(tree, "a/first.ko.xz")
    module(tree, "second.ko", depends="first")
    module(tree, "third.ko", depends="second")
    (tmp_path / "busybox").write_bytes(b"busybox")
    (tmp_path / "tool").write_bytes(b"tool")
    (tmp_path / "tool").chmod(0o755)
    files = {"/bin/tool": tmp_path / "tool"}
    return Contents(tmp_path / "busybox", ModuleTree(tree), load=["second"], spare=["third"], files=files)


def test_initramfs_has_modules_in_order_and_the_index_of_modprobe(contents: Contents) -> None:
    entries = parsed(gzip.decompress(build_initramfs(contents).read_bytes()))
    root = "/lib/modules/1.2.3-test"
    listed = entries["etc/modules-to-load"].content.decode().split()
    assert listed == [f"{root}/kernel/a/first.ko", f"{root}/kernel/second.ko"]
    assert all(path.strip("/") in entries for path in listed)
    index = entries["lib/modules/1.2.3-test/modules.dep"].content.decode().splitlines()
    assert "kernel/third.ko: kernel/second.ko kernel/a/first.ko" in index
    assert "lib/modules/1.2.3-test/kernel/third.ko" in entries


def test_initramfs_keeps_the_mode_of_files_and_starts_with_an_init(contents: Contents) -> None:
    entries = parsed(gzip.decompress(build_initramfs(contents).read_bytes()))
    assert entries["bin/tool"].mode & 0o777 == 0o755
    assert entries["bin/tool"].content == b"tool"
    assert entries["init"].content.startswith(b"#!/bin/sh\n")
    assert entries["init"].mode & 0o111
    assert entries["dev/console"].device == (5, 1)


def test_initramfs_of_the_same_contents_is_the_same_file(contents: Contents, tmp_path: Path) -> None:
    first = build_initramfs(contents)
    assert build_initramfs(contents) == first
    (tmp_path / "tool").write_bytes(b"another tool")
    assert build_initramfs(contents) != first


def test_initramfs_without_modules_can_be_built(contents: Contents) -> None:
    entries = parsed(gzip.decompress(build_initramfs(Contents(contents.busybox)).read_bytes()))
    assert entries["etc/modules-to-load"].content == b""
