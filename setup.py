"""What a static table cannot say: packages, device folders and C files are found, not listed. See pyproject.toml."""

from glob import glob

from setuptools import Extension, find_packages, setup

FOLDERS = {"vfuserver": "vfuserver", "vfuserver_devices": "devices", "vfuserver_qemu_configs": "qemu-configs"}
"""Top-level packages and the folders they lie in."""

PACKAGES = list(FOLDERS) + [f"{top}.{inner}" for top, folder in FOLDERS.items() for inner in find_packages(folder)]

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
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
        )
    ],
)
