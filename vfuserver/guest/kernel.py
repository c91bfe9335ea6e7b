"""Builds the project's own guest kernel: iommufd, VFIO cdevs and sample devices, everything built in.

Stock kernels lack iommufd and the VFIO cdev. The source is Debian's package linux-source, unmodified, fetched like the
rest; kernel.config (a fragment) is merged on top of tinyconfig. It takes minutes and 2 GB while it lasts; the image
stays in the cache. It boots nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from vfuserver.guest.cache import cache_dir, make_once
from vfuserver.guest.errors import ObtainError, ToolError
from vfuserver.guest.obtain import Kernel, fetch_packages, find_vfio_kernel
from vfuserver.guest.progress import Progress, progress

_SOURCE_PACKAGE = re.compile(r"^linux-source-\d")
_PROGRAMS = ("make", "gcc", "ld", "flex", "bison", "m4", "bc", "tar", "xz")
_HEADERS = ("libelf.h", "zlib.h")
_TO_INSTALL = "build-essential flex bison m4 bc xz-utils libelf-dev zlib1g-dev"
_IMAGE = "arch/x86/boot/bzImage"
_STEPS = 2700
"""About as many lines as make prints; only the progress bar depends on it."""

_SWITCHED_ON = re.compile(r"^(CONFIG_\w+)=([ym])$", re.MULTILINE)
_DECLARED = re.compile(r"^\s*(?:menu)?config\s+(\w+)\s*$", re.MULTILINE)


def build_vfio_kernel() -> Kernel:
    """The project's own kernel, built into the cache unless it is there already.

    ObtainError when a tool is missing (it names the packages) or the source cannot be fetched; ToolError when the
    build fails.
    """
    if not (cache_dir() / "vfio-kernel").is_dir():
        _check_tools()
        make_once("vfio-kernel", _make)
    return find_vfio_kernel()


def missing_options(fragment: str, config: str) -> list[str]:
    """The options that `fragment` switches on and a finished .config does not have."""
    have = set(_SWITCHED_ON.findall(config))
    return [name for name, value in _SWITCHED_ON.findall(fragment) if (name, value) not in have]


def declared_options(source: Path) -> set[str]:
    """The options that a kernel source declares, as CONFIG_NAME."""
    texts = (path.read_text(errors="replace") for path in source.rglob("Kconfig*") if path.is_file())
    return {f"CONFIG_{name}" for text in texts for name in _DECLARED.findall(text)}


def _make(scratch: Path, result: Path) -> None:
    packages = fetch_packages("linux-source", ("linux-source",), lambda: "amd64", _is_source)
    source = _unpacked(next(packages.glob("usr/src/linux-source-*.tar.xz")), scratch)
    build = scratch / "build"
    build.mkdir(exist_ok=True)
    _configure(source, build)
    with progress("building the guest kernel") as report:
        _compile(source, build, report)
    shutil.copyfile(build / _IMAGE, result / "bzImage")
    shutil.copyfile(build / ".config", result / "config")
    shutil.rmtree(packages)


def _is_source(name: str) -> bool:
    return bool(_SOURCE_PACKAGE.match(name))


def _unpacked(archive: Path, scratch: Path) -> Path:
    """The source tree, unpacked whole or not at all."""
    folder = scratch / "source"
    if not folder.is_dir():
        draft = scratch / "source.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        with progress(f"unpacking {archive.name}"):
            _run(["tar", "--extract", "--strip-components=1", "--file", str(archive)], draft)
        draft.rename(folder)
    return folder


def _configure(source: Path, build: Path) -> None:
    """tinyconfig, the fragment, and what follows from both; ToolError names options that did not stick.

    Options come and go with versions: one that the source does not know at all is mentioned, and is no error.
    """
    fragment = resources.files("vfuserver.guest").joinpath("kernel.config").read_text()
    (build / "fragment").write_text(fragment)
    _run(_make_words(build, "tinyconfig"), source)
    _run(
        ["scripts/kconfig/merge_config.sh", "-m", "-O", str(build), str(build / ".config"), str(build / "fragment")],
        source,
    )
    _run(_make_words(build, "olddefconfig"), source)
    missing = missing_options(fragment, (build / ".config").read_text())
    known = declared_options(source)
    if refused := [name for name in missing if name in known]:
        raise ToolError(f"this kernel has {', '.join(refused)}, and does not take what kernel.config says of them")
    if missing:
        print(f"vfuserver: this kernel knows no {', '.join(missing)} (any more)", file=sys.stderr)


def _compile(source: Path, build: Path, report: Progress) -> None:
    words = _make_words(build, f"-j{os.cpu_count() or 1}", "bzImage")
    log = build / "log"
    with (
        log.open("w") as copy,
        subprocess.Popen(words, cwd=source, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child,
    ):
        assert child.stdout is not None
        for step, line in enumerate(child.stdout):
            copy.write(line)
            report(min(99.0, 100 * step / _STEPS))
    if child.returncode:
        last = "\n".join(log.read_text().splitlines()[-20:])
        raise ToolError(f"the guest kernel does not build:\n{last}")


def _make_words(build: Path, *targets: str) -> list[str]:
    return ["make", f"O={build}", "ARCH=x86_64", *targets]


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")


def _check_tools() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if shutil.which("gcc"):
        missing += [name for name in _HEADERS if not _has_header(name)]
    if missing:
        raise ObtainError(
            f"the guest kernel cannot be built without {', '.join(missing)}. Install (Debian) {_TO_INSTALL}, or set "
            "VFUSERVER_VFIO_KERNEL to a bzImage that was built elsewhere."
        )


def _has_header(name: str) -> bool:
    words = ["gcc", "-E", "-x", "c", "-include", name, "/dev/null"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
