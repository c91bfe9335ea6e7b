"""Which form of vfu_setup_device_dma a libvfio-user has, found out by using it once.

Its second parameter is the most DMA regions since March 2026, before that the register callback; both forms have the
same name and no version is told. So a context of its own is given (A, A, B), where A and B are callbacks: a region that
a client adds and removes is unregistered by B in the new form and by A in the old one, which has no more parameters.
The client is a socket that has sent everything beforehand, so nothing here waits. It must not know devices.
"""

import socket
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from vfuserver.errors import UsageError
from vfuserver.wire import command_message

VERSION, DMA_MAP, DMA_UNMAP = 1, 2, 3
NON_BLOCKING: Final = 1
IOVA, SIZE = 0x1000, 0x1000
READABLE: Final = 1


def limits_regions(ffi: Any, lib: Any) -> bool:
    """Whether vfu_setup_device_dma takes a limit. UsageError: neither form works."""
    removed_by: list[str] = []

    @ffi.callback("void(vfu_ctx_t *, vfu_dma_info_t *)")  # type: ignore[untyped-decorator]
    def first(_context: Any, _info: Any) -> None:
        removed_by.append("first")

    @ffi.callback("void(vfu_ctx_t *, vfu_dma_info_t *)")  # type: ignore[untyped-decorator]
    def second(_context: Any, _info: Any) -> None:
        removed_by.append("second")

    a, b = (int(ffi.cast("uintptr_t", one)) for one in (first, second))
    with TemporaryDirectory(prefix="vfu-") as folder:
        path = Path(folder) / "s"
        context = lib.vfu_create_ctx(0, str(path).encode(), NON_BLOCKING, ffi.NULL, 0)
        if context == ffi.NULL:
            raise UsageError(f"libvfio-user cannot listen in {folder}: errno {ffi.errno}")
        try:
            lib.vfu_setup_device_dma(context, a, a, b)
            lib.vfu_realize_ctx(context)
            _use(lib, context, path)
        finally:
            lib.vfu_destroy_ctx(context)
    if len(removed_by) != 2:
        raise UsageError(
            f"this libvfio-user is of no known version: a DMA region had {len(removed_by)} callbacks, not 2"
        )
    return removed_by[-1] == "second"


def _use(lib: Any, context: Any, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.send(command_message(VERSION, 1, struct.pack("=HH", 0, 0) + b"{}\0"))
        client.send(command_message(DMA_MAP, 2, struct.pack("=IIQQQ", 32, READABLE, 0, IOVA, SIZE)))
        client.send(command_message(DMA_UNMAP, 3, struct.pack("=IIQQ", 24, 0, IOVA, SIZE)))
        if lib.vfu_attach_ctx(context) == 0:
            lib.vfu_run_ctx(context)
            lib.vfu_run_ctx(context)
