"""A private apt: packages of one Debian suite, downloaded, verified and unpacked without installing or being root.

How: apt-get runs with its own state, cache and sources, made from the machine's own mirror (`apt-get indextargets`),
and an empty package database, so that it resolves the whole closure. Signatures and hashes are checked by apt, always;
where this machine's keyring is older than the suite's key, a newer keyring package comes from the suites that the
machine already trusts. Only Valid-Until is not enforced: mirrors that stand still are common, and a replayed suite
costs us age, not authenticity.

It must not know what the packages are for.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vfuserver.guest.errors import ToolError
from vfuserver.guest.progress import Progress

SUITE = "trixie-backports"
"""The first Debian suite whose QEMU has vfio-user-pci; its release suite completes it."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_KEYRING_PACKAGE = "debian-archive-keyring"
_PATIENCE = 900
_MIRROR_VARIABLE = "VFUSERVER_DEBIAN_MIRROR"

_ONLY_FOR_MAINTAINER_SCRIPTS = {"adduser": "", "debconf": "debconf-2.0"}
"""Packages (and what they provide) that only maintainer scripts run; we run none, so apt is told they are there."""

_PLACEHOLDER = """\
Package: {name}
Status: install ok installed
Architecture: all
Version: 99999
Maintainer: nobody
Provides: {provides}
Description: placeholder

"""

_CONFIGURATION = """\
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "{suite}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Check-Valid-Until "false";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Acquire::Retries "3";
"""

_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")
_FILE_NAME = re.compile(r"^(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<arch>[^_]+)\.deb$")


@dataclass(frozen=True, slots=True)
class Package:
    """One package as apt would download it: `size` in bytes."""

    name: str
    version: str
    size: int


def _run(command: Sequence[str | Path], cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What `command` printed; ToolError with its last messages if it failed or is missing."""
    variables = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(environment or {})}
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{command[0]} did not end within {_PATIENCE} s") from None
    if done.returncode:
        raise ToolError(f"{command[0]} failed: {_essence(done.stderr)}")
    return done.stdout


def _essence(messages: str) -> str:
    lines = [line for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return "; ".join(errors[-4:] or lines[-4:]) or "no message"


def mirror(lists: Path) -> str:
    """The URI of the machine's own Debian mirror; ToolError if apt here knows no Debian.

    VFUSERVER_DEBIAN_MIRROR overrides it, for machines whose apt belongs to another distribution. Where apt has no
    package lists yet (a new machine, a container), the machine's own sources are read into the folder `lists`.
    """
    if named := os.environ.get(_MIRROR_VARIABLE):
        return named
    for uri in _mirrors(()) or _mirrors(_fresh(lists)):
        return uri
    raise ToolError(f"apt on this machine has no Debian mirror (name one in {_MIRROR_VARIABLE})")


def _mirrors(options: Sequence[str]) -> list[str]:
    form = ("--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages")
    listing = _run(["apt-get", *options, "indextargets", *form])
    rows = [line.split("|") for line in listing.splitlines() if line.count("|") == 2]
    declared = [uri for uri, origin, label in rows if (origin, label) == ("Debian", "Debian")]
    return declared + [uri for uri, origin, _ in rows if origin.startswith("$") and uri.rstrip("/").endswith("/debian")]


def _fresh(lists: Path) -> tuple[str, ...]:
    """apt's options for the machine's own sources, updated in a folder of ours."""
    options = ("-o", f"Dir::State::lists={lists}")
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    with suppress(ToolError):  # one of several sources may be out of reach: what has come counts
        _run(["apt-get", *options, "update"])
    return options


class PrivateApt:
    """apt-get with everything of its own below `root`, for `architecture` (Debian's name, e.g. amd64).

    `root` may hold the state of an interrupted run; whatever is there and right is not downloaded again.
    """

    def __init__(self, root: Path, architecture: str, suite: str = SUITE) -> None:
        self._root = root
        self._architecture = architecture
        self._suite = suite
        self._archives = root / "archives"
        for folder in ("state/lists/partial", "cache/archives/partial", "archives"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self._configuration = root / "apt.conf"

    def update(self) -> None:
        """Fetch and verify the suite's indexes; ToolError without a network or with a signature that does not fit."""
        uri = mirror(self._root / "machine-lists")
        self._write_configuration(uri, _KEYRING)
        try:
            self._apt_get("update")
        except ToolError as error:
            if "NO_PUBKEY" not in str(error) and "not signed" not in str(error) and _KEYRING.exists():
                raise
            self._write_configuration(uri, self._newer_keyring())
            self._apt_get("update")

    def closure(self, names: Iterable[str], keep: Callable[[str], bool] = lambda name: True) -> list[Package]:
        """The packages that installing `names` would bring (no recommends), those whose name `keep` accepts."""
        lines = self._apt_get("install", "--print-uris", "--yes", "-qq", *names).splitlines()
        packages = [_package(match) for line in lines if (match := _URI_LINE.match(line))]
        return [package for package in packages if keep(package.name)]

    def download(self, packages: Sequence[Package], report: Progress) -> list[Path]:
        """Download and verify; the files, in the order of `packages`. `report` is told percentages."""
        wanted = [f"{package.name}={package.version}" for package in packages]
        self._watch(["apt-get", "-c", str(self._configuration), "-q", "download", *wanted], report)
        return [self._file(package) for package in packages]

    def _file(self, package: Package) -> Path:
        escaped = package.version.replace(":", "%3a")
        for path in self._archives.glob(f"{package.name}_*.deb"):
            match = _FILE_NAME.match(path.name)
            if match and match["version"] == escaped:
                return path
        raise ToolError(f"apt-get left no file for {package.name} {package.version}")

    def _watch(self, command: list[str], report: Progress) -> None:
        """Run apt-get in the archive folder, reading its status lines `dlstatus:NUMBER:PERCENT:words`."""
        command[1:1] = ["-o", "APT::Status-Fd=1"]
        variables = {**os.environ, "LC_ALL": "C"}
        with subprocess.Popen(
            command, cwd=self._archives, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            assert child.stdout is not None
            messages: list[str] = []
            for line in child.stdout:
                if line.startswith("dlstatus:"):
                    report(float(line.split(":")[2]))
                else:
                    messages.append(line)
        if child.returncode:
            raise ToolError(f"apt-get download failed: {_essence(''.join(messages))}")

    def _apt_get(self, *words: str) -> str:
        return _run(["apt-get", "-c", self._configuration, *words])

    def _write_configuration(self, uri: str, keyring: Path) -> None:
        release = self._suite.removesuffix("-backports")
        suites = dict.fromkeys([release, self._suite])
        sources = "".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for suite in suites)
        (self._root / "sources.list").write_text(sources)
        status = "".join(
            _PLACEHOLDER.format(name=name, provides=provides or f"{name}-placeholder")
            for name, provides in _ONLY_FOR_MAINTAINER_SCRIPTS.items()
        )
        (self._root / "state/status").write_text(status)
        self._configuration.write_text(
            _CONFIGURATION.format(root=self._root, architecture=self._architecture, suite=self._suite)
        )

    def _newer_keyring(self) -> Path:
        """The keyring of the newest keyring package that the machine's own apt offers and has verified."""
        folder = self._root / "keyring"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        sandbox = ["-o", "APT::Sandbox::User=root"]
        lists = self._root / "machine-lists"
        own = _fresh(lists) if lists.is_dir() else ()
        _run(["apt-get", *sandbox, *own, "download", _KEYRING_PACKAGE], cwd=folder)
        for archive in folder.glob("*.deb"):
            unpack(archive, folder)
        path = folder / _KEYRING.relative_to("/")
        if not path.exists():
            raise ToolError(f"{_KEYRING_PACKAGE} as this machine's apt offers it has no {_KEYRING.name}")
        return path


def _package(match: re.Match[str]) -> Package:
    parts = _FILE_NAME.match(match["file"])
    if parts is None:
        raise ToolError(f"apt-get named a file that is no package: {match['file']}")
    return Package(parts["name"], parts["version"].replace("%3a", ":"), int(match["size"]))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a package's files below `folder`; ToolError when dpkg-deb fails (a full disk, too)."""
    _run(["dpkg-deb", "--extract", archive, folder])


def machine_architecture() -> str:
    """Debian's name of this machine's architecture."""
    return _run(["dpkg", "--print-architecture"]).strip()
