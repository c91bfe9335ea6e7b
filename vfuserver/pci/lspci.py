"""A configuration image as text in the format of `lspci -xxxx`, so that `lspci -F FILE -vvv` decodes it.

It must not know where the bytes come from: a device of ours, or a server of somebody else's seen by `probe`.
"""

from typing import Final

from vfuserver.pci.header import CLASS_CODE, DEVICE_ID, REVISION_ID, VENDOR_ID

ROW: Final = 16
_CLASS_BYTES: Final = slice(CLASS_CODE + 1, CLASS_CODE + 3)
_VENDOR_BYTES: Final = slice(VENDOR_ID, VENDOR_ID + 2)
_DEVICE_BYTES: Final = slice(DEVICE_ID, DEVICE_ID + 2)


def render(image: bytes, address: str = "00:00.0") -> str:
    """The dump of one function; `address` is its bus, device and function as lspci shows them.

    ValueError for an image that is neither 64, 256 nor 4096 bytes long: lspci reads no other.
    """
    if len(image) not in (0x40, 0x100, 0x1000):
        raise ValueError(f"a configuration image must have 64, 256 or 4096 bytes, not {len(image)}")
    rows = (f"{start:02x}: {image[start : start + ROW].hex(' ')}" for start in range(0, len(image), ROW))
    return "\n".join((_title(image, address), *rows, "", ""))


def _title(image: bytes, address: str) -> str:
    class_code, vendor, device = (
        int.from_bytes(image[where], "little") for where in (_CLASS_BYTES, _VENDOR_BYTES, _DEVICE_BYTES)
    )
    return f"{address} Class {class_code:04x}: Device {vendor:04x}:{device:04x} (rev {image[REVISION_ID]:02x})"
