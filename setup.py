"""What a static table cannot say: packages, device folders and C files are found, not listed. The rest: pyproject.toml."""

from glob import glob

from setuptools import Extension, find_packages, setup

PACKAGES = {"vfuserver": "vfuserver", "vfuserver_devices": "devices", "vfuserver_qemu_configs": "qemu-configs"}
"""Top-level packages and the folders they lie in."""

setup(
    package_dir=PACKAGES,
    packages=[name for top, folder in PACKAGES.items() for name in (top, *(f"{top}.{p}" for p in find_packages(folder)))],
    package_data={"": ["*.pyi", "py.typed", "*.md", "*.toml", "*.c", "*.config", "*.fragment"]},
    ext_modules=[
        Extension(
            "vfuserver._core",
            sources=sorted(glob("native/*/*.c")),
            depends=sorted(glob("native/*/*.h")),
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
        )
    ],
)
