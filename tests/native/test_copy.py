"""Copies and checksums: of any length, alignment and beginning. The core's CRC-32 is zlib's, on every way to it."""

import ctypes
import os
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vfuserver import _core

CORE = Path(__file__).parents[2] / "native" / "core"
DATA = random.Random(32).randbytes(70_000)
LENGTHS = [*range(700), 1023, 1024, 1025, 4096, 16383, 16384, 16385, 65535, 65536, 66000]
Crc = Callable[[bytes, int], int]


def with_copy(data: bytes, value: int) -> int:
    place = bytearray(len(data))
    crc = _core.copy_crc32(place, data, value)
    assert place == data
    return crc


def with_snapshot(data: bytes, value: int) -> int:
    copy, crc = _core.snapshot(data, value)
    assert copy == data
    return crc


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The code for processors that have no instruction for it: this one may have."""
    library = tmp_path_factory.mktemp("crc") / "crc.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-DVFU_NO_FOLDING", "-o", library, CORE / "crc.c"], check=True
    )
    loaded = ctypes.CDLL(os.fspath(library)).vfu_crc32
    loaded.restype = ctypes.c_uint32
    return loaded


@pytest.mark.parametrize("crc", [_core.crc32, with_copy, with_snapshot])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_crc_is_that_of_zlib(crc: Crc, start: int) -> None:
    for length in LENGTHS:
        data = DATA[start : start + length]
        assert crc(data, 0) == zlib.crc32(data), length
        assert crc(data, 0xDEADBEEF) == zlib.crc32(data, 0xDEADBEEF), length


def test_crc_by_tables_is_that_of_zlib(plain: Any) -> None:
    for length in LENGTHS:
        place = ctypes.create_string_buffer(length)
        data = DATA[:length]
        size = ctypes.c_size_t(length)
        assert plain(7, None, data, size) == plain(7, place, data, size) == zlib.crc32(data, 7)
        assert place.raw == data


def test_crc_of_views_of_anything_contiguous() -> None:
    for data in (bytearray(DATA), memoryview(DATA)[3:], memoryview(bytearray(DATA))):
        assert _core.crc32(data) == zlib.crc32(data)
    with pytest.raises(BufferError):
        _core.crc32(memoryview(DATA)[::2])


@pytest.mark.parametrize("start", [0, 1, 15, 63, 64])
def test_copy_around_the_caches_is_a_copy(start: int) -> None:
    """Of any alignment on both sides; what is beside it stays."""
    for length in LENGTHS:
        place = bytearray(b"#" * (start + length + 5))
        _core.copy_far(memoryview(place)[start : start + length], DATA[length : 2 * length].ljust(length, b"."))
        assert place == b"#" * start + DATA[length : 2 * length].ljust(length, b".") + b"#" * 5
    with pytest.raises(ValueError, match="a place for 4 bytes cannot take 5"):
        _core.copy_far(bytearray(4), b"12345")


def test_copy_into_a_place_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a place for 4 bytes cannot take 5"):
        _core.copy_crc32(bytearray(4), b"12345")
    with pytest.raises(TypeError):
        _core.copy_crc32(b"1234", b"1234")  # type: ignore[arg-type, unused-ignore]
