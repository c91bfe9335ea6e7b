"""The guest's own tools, compiled on demand from the C sources in payload/ and cached by their text.

They are static, so that they run in a guest that has nothing but busybox. It knows no guest.
"""

import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from vfuserver.guest.cache import cache_dir, digest, write_once
from vfuserver.guest.errors import ToolError

_FLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-std=gnu11")


def build_tool(name: str) -> Path:
    """The static program `name` (payload/NAME*.c) for the guest; ToolError without a C compiler or its static libc."""
    folder = resources.files("vfuserver.guest").joinpath("payload")
    sources = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.startswith(name)}
    key = digest(
        [repr(_FLAGS).encode(), *(part for file in sorted(sources) for part in (file.encode(), sources[file]))]
    )
    return write_once(cache_dir() / "tools" / key / name, lambda: _compiled(name, sources), mode=0o755)


def _compiled(name: str, sources: dict[str, bytes]) -> bytes:
    compiler = shutil.which("cc")
    if compiler is None:
        raise ToolError(f"the guest's {name} needs a C compiler: install gcc and libc6-dev (Debian: build-essential)")
    with tempfile.TemporaryDirectory() as folder:
        for file_name, text in sources.items():
            (Path(folder) / file_name).write_bytes(text)
        parts = [file_name for file_name in sources if file_name.endswith(".c")]
        done = subprocess.run(
            [compiler, *_FLAGS, *parts, "-o", name], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ToolError(f"the guest's {name} does not compile:\n{done.stderr}")
        return (Path(folder) / name).read_bytes()
