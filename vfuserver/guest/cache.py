"""The cache folder: where fetched and built things live, and how they get there whole or not at all.

Everything is made in a staging folder beside its final place and renamed at the end, under a lock file, so that an
interrupted run leaves only work that the next run continues, and two processes never make the same thing twice.
This module knows nothing of apt, kernels or QEMU.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vfuserver.guest.errors import ToolError

_READ = 1 << 20


def cache_dir() -> Path:
    """The cache folder: VFUSERVER_CACHE, else vfuserver in XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    if named := os.environ.get("VFUSERVER_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vfuserver"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`; waits for another process that holds it, and says so once on stderr."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"vfuserver: waiting for another process that prepares {name}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_once(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder `name` of the cache, made by `make(scratch, result)` unless it is there already.

    `scratch` survives an interrupted run, so that downloads continue; `result` starts empty each time and becomes the
    folder by one rename. Both are gone from their places afterwards.
    """
    final = cache_dir() / name
    if final.is_dir():
        return final
    with locked(name.replace("/", "-")):
        if final.is_dir():
            return final
        scratch = cache_dir() / "partial" / name
        result = scratch / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir(parents=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        make(scratch, result)
        result.rename(final)
        shutil.rmtree(scratch)
    return final


def write_once(path: Path, content: Callable[[], bytes], mode: int = 0o644) -> Path:
    """The file `path` with permissions `mode`, written whole from `content()` unless it is there already.

    ToolError when it cannot be written: no room, no permission.
    """
    if not path.is_file():
        whole = content()
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(whole)
                draft.chmod(mode)
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise ToolError(
                f"cannot write {path} ({len(whole) / 1e6:.1f} MB): {error.strerror} "
                "(VFUSERVER_CACHE names another folder)"
            ) from error
    return path


def digest(parts: Iterable[bytes | Path]) -> str:
    """A short hexadecimal SHA-256 over byte strings and the contents of files; the borders between them count."""
    total = hashlib.sha256()
    for part in parts:
        one = hashlib.sha256()
        if isinstance(part, bytes):
            one.update(part)
        else:
            with part.open("rb") as file:
                while block := file.read(_READ):
                    one.update(block)
        total.update(one.digest())
    return total.hexdigest()[:20]


def remembered(name: str, key: str, ask: Callable[[], Any]) -> Any:
    """The JSON value remembered as `name` for `key`, or what `ask()` returns now (then remembered).

    One value is kept per name: a changed key (a program's new time stamp, a new boot) asks again.
    """
    path = cache_dir() / "remembered" / f"{name}.json"
    try:
        entry = json.loads(path.read_text())
    except (OSError, ValueError):
        entry = {}
    if entry.get("key") == key:
        return entry["value"]
    value = ask()
    path.unlink(missing_ok=True)
    write_once(path, lambda: json.dumps({"key": key, "value": value}).encode())
    return value
