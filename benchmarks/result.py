"""The file of one run: when, of which commit, on which machine, and every figure. It must not know what is measured."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, with_full_names


@dataclass(frozen=True, slots=True)
class Result:
    """`date` is ISO 8601 in UTC; `machine` what is known of it; `rooms` their figures, each with a name of its own."""

    date: str
    commit: str
    machine: dict[str, str]
    rounds: int
    rooms: dict[str, list[Figure]]

    @classmethod
    def of(cls, rooms: Mapping[str, Sequence[Figure]], rounds: int) -> "Result":
        """Of what has just been measured, here. ValueError: two figures of a room have one name."""
        named = {room: with_full_names(figures) for room, figures in rooms.items()}
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), _commit(), _machine(), rounds, named)

    @classmethod
    def load(cls, path: Path) -> "Result":
        """ValueError, KeyError, TypeError: it is no file of a run."""
        stored: dict[str, Any] = json.loads(path.read_text())
        rooms = {room: [Figure(**figure) for figure in figures] for room, figures in stored.pop("rooms").items()}
        return cls(rooms=rooms, **stored)

    def as_json(self) -> str:
        """What load() reads."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, folder: Path) -> Path:
        """A new file there, named by date and commit."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = datetime.fromisoformat(self.date).strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"{moment}-{self.commit}.json"
        path.write_text(self.as_json())
        return path


def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> dict[str, str]:
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": next((line.partition(":")[2].strip() for line in _lines("/proc/meminfo")), "unknown"),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libvfio-user": os.environ.get("LIBVFIO_USER_SO", "not named: LIBVFIO_USER_SO is not set"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
