"""What a static table cannot say: packages, device folders and C files are found, not listed. See pyproject.toml."""

import platform
from glob import glob

from setuptools import Extension, find_packages, setup

FOLDERS = {"vfuserver": "vfuserver", "vfuserver_devices": "devices", "vfuserver_qemu_configs": "qemu-configs"}
"""Top-level packages and the folders they lie in."""

PACKAGES = list(FOLDERS) + [f"{top}.{inner}" for top, folder in FOLDERS.items() for inner in find_packages(folder)]

DIRECT = ["-fno-plt"] + ["-ftls-model=initial-exec"] * (platform.libc_ver()[0] == "glibc")
"""Calls and a thread's variables without a detour: some 3 % of the CPU that a message costs. Only glibc has room for
such variables of a library that is loaded later."""

setup(
    package_dir=FOLDERS,
    packages=PACKAGES,
    package_data={"": ["*.pyi", "py.typed", "*.md", "*.toml", "*.c", "*.h", "*.config", "init"]},
    ext_modules=[
        Extension(
            "vfuserver._core",
            sources=sorted(glob("native/*/*.c")),
            depends=sorted(glob("native/*/*.h")),
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread", *DIRECT],
            extra_link_args=["-Wl,-z,now"],
        )
    ],
)
