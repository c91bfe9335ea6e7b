"""libvfio-user's public API as cffi sees it: names, constants and layouts, and which of its versions was found.

The library has no stable ABI and tells no version, so what differs between versions is found out (`probing`). A
parameter that newer versions have added at the end is always passed: older ones do not look at it. It must not know
devices.
"""

import os
import re
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cache
from typing import Any, Final

from vfuserver.errors import UsageError

ENVIRONMENT: Final = "LIBVFIO_USER_SO"
"""Names the library's file; without it the system's loader looks for NAMES."""
NAMES: Final = ("libvfio-user.so.0", "libvfio-user.so")

DECLARATIONS: Final = """
typedef ... vfu_ctx_t;
struct iovec { void *iov_base; size_t iov_len; };
typedef struct {
    struct iovec iova; void *vaddr; struct iovec mapping; size_t page_size; uint32_t prot;
} vfu_dma_info_t;
typedef struct {
    int version;
    int (*transition)(vfu_ctx_t *, int);
    ssize_t (*read_data)(vfu_ctx_t *, void *, uint64_t);
    ssize_t (*write_data)(vfu_ctx_t *, void *, uint64_t);
} vfu_migration_callbacks_t;
typedef void vfu_log_fn_t(vfu_ctx_t *, int, const char *);
typedef ssize_t vfu_region_access_cb_t(vfu_ctx_t *, char *, size_t, int64_t, bool);
typedef int vfu_device_quiesce_cb_t(vfu_ctx_t *);
typedef int vfu_reset_cb_t(vfu_ctx_t *, int);
typedef void vfu_dma_cb_t(vfu_ctx_t *, vfu_dma_info_t *);
typedef void vfu_dev_irq_state_cb_t(vfu_ctx_t *, uint32_t, uint32_t, bool);
vfu_ctx_t *vfu_create_ctx(int, const char *, int, void *, int);
int vfu_realize_ctx(vfu_ctx_t *);
int vfu_attach_ctx(vfu_ctx_t *);
int vfu_get_poll_fd(vfu_ctx_t *);
int vfu_run_ctx(vfu_ctx_t *);
void vfu_destroy_ctx(vfu_ctx_t *);
int vfu_setup_log(vfu_ctx_t *, vfu_log_fn_t *, int);
int vfu_pci_init(vfu_ctx_t *, int, int, int);
int vfu_setup_region(vfu_ctx_t *, int, size_t, vfu_region_access_cb_t *, int, struct iovec *, uint32_t, int, uint64_t);
int vfu_create_ioeventfd(vfu_ctx_t *, uint32_t, int, size_t, uint32_t, uint32_t, uint64_t, int, size_t);
int vfu_setup_device_reset_cb(vfu_ctx_t *, vfu_reset_cb_t *);
void vfu_setup_device_quiesce_cb(vfu_ctx_t *, vfu_device_quiesce_cb_t *);
int vfu_device_quiesced(vfu_ctx_t *, int);
int vfu_setup_device_dma(vfu_ctx_t *, uintptr_t, uintptr_t, uintptr_t);
size_t dma_sg_size(void);
int vfu_addr_to_sgl(vfu_ctx_t *, uintptr_t, size_t, void *, size_t, int);
void vfu_sgl_mark_dirty(vfu_ctx_t *, void *, size_t);
int vfu_sgl_read(vfu_ctx_t *, void *, size_t, void *, int);
int vfu_sgl_write(vfu_ctx_t *, void *, size_t, void *, int);
int vfu_setup_device_nr_irqs(vfu_ctx_t *, int, uint32_t);
int vfu_setup_irq_state_callback(vfu_ctx_t *, int, vfu_dev_irq_state_cb_t *);
int vfu_irq_trigger(vfu_ctx_t *, uint32_t);
int vfu_setup_device_migration_callbacks(vfu_ctx_t *, const vfu_migration_callbacks_t *);
"""

FUNCTIONS: Final = re.findall(r"(?m)^(?!typedef| )[^(\n]*?(\w+)\(.*\);$", DECLARATIONS)

TRANSPORT_SOCKET: Final = 0
DEVICE_PCI: Final = 0
HEADER_NORMAL: Final = 0
ATTACH_NON_BLOCKING: Final = 1 << 0
DIRECT_ACCESS: Final = 1 << 0
"""VFU_SGL_DIRECT_ACCESS: by file I/O where the client's map says so, by a message elsewhere."""
MIGRATION_CALLBACKS: Final = 2


class RegionFlag(IntFlag):
    """VFU_REGION_FLAG_*."""

    READ = 1 << 0
    WRITE = 1 << 1
    ALWAYS_CB = 1 << 3


class PciType(IntEnum):
    """VFU_PCI_TYPE_*."""

    CONVENTIONAL = 0
    EXPRESS = 3


class ResetType(IntEnum):
    """VFU_RESET_*."""

    DEVICE = 0
    LOST_CONN = 1
    PCI_FLR = 2


class TransitionState(IntEnum):
    """VFU_MIGR_STATE_*."""

    STOP = 0
    RUNNING = 1
    STOP_AND_COPY = 2
    PRE_COPY = 3
    RESUME = 4


@dataclass(frozen=True, slots=True)
class Library:
    """The library, loaded: `ffi`, its functions as attributes of `lib`, and what its version can."""

    path: str
    ffi: Any
    lib: Any
    limits_regions: bool
    """vfu_setup_device_dma takes the most DMA regions (since March 2026)."""

    def setup_dma(self, context: Any, most: int, register: Any, unregister: Any) -> int:
        """vfu_setup_device_dma as this version has it."""
        callbacks = [int(self.ffi.cast("uintptr_t", one)) for one in (register, unregister)]
        arguments = [most, *callbacks] if self.limits_regions else [*callbacks, 0]
        return int(self.lib.vfu_setup_device_dma(context, *arguments))


def library() -> Library:
    """The library that LIBVFIO_USER_SO names, or the system's loader finds; loaded once for the process.

    UsageError says what is missing and what to do.
    """
    return _load(os.environ.get(ENVIRONMENT, ""))


@cache
def _load(named: str) -> Library:
    try:
        from cffi import FFI
    except ImportError as error:
        raise UsageError("the engine libvfio-user needs cffi: pip install 'vfuserver[libvfio-user]'") from error
    from vfuserver.engine.libvfio_user.probing import limits_regions

    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    path, lib = _open(ffi, named)
    missing = [name for name in FUNCTIONS if not hasattr(lib, name)]
    if missing:
        raise UsageError(f"{path} is no libvfio-user of 2022 or later: it has no {', '.join(missing)}")
    return Library(path, ffi, lib, limits_regions(ffi, lib))


def _open(ffi: Any, named: str) -> tuple[str, Any]:
    why = ""
    for path in (named,) if named else NAMES:
        try:
            return path, ffi.dlopen(path)
        except OSError as error:
            why = str(error)
    raise UsageError(
        f"libvfio-user cannot be loaded ({why}): build it from its sources and name its file with {ENVIRONMENT}, "
        "or leave --engine out"
    )
