"""Finding QEMU, kernels and busybox, and what a person is told when there is none. Nothing is fetched here."""

import time
from pathlib import Path

import pytest

from vfuserver.guest.accel import choose_accel
from vfuserver.guest.apt import SUITE, mirror
from vfuserver.guest.errors import ObtainError, ToolError
from vfuserver.guest.obtain import Kernel, Qemu, find_busybox, find_kernel, find_qemu
from vfuserver.guest.tools import build_tool

FAKE_QEMU = """#!/bin/sh
case "$*" in
    *--version*) echo "QEMU emulator version {version} (Debian 1:{version}+ds-1)" ;;
    *) echo 'name "{device}", bus PCI' ;;
esac
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def qemu(folder: Path, version: str, device: str = "vfio-user-pci") -> Path:
    return program(folder / "qemu-system-x86_64", FAKE_QEMU.format(version=version, device=device))


@pytest.fixture
def no_apt(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with dpkg and without apt, whose PATH is the folder returned."""
    folder = tmp_path / "bin"
    program(folder / "dpkg", "#!/bin/sh\necho amd64\n")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_qemu_named_by_its_variable_is_taken(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = qemu(tmp_path, "10.1.0")
    monkeypatch.setenv("VFUSERVER_QEMU", str(path))
    assert find_qemu() == Qemu((str(path),), "10.1.0", f"VFUSERVER_QEMU: {path}")


@pytest.mark.parametrize(("version", "device"), [("10.0.8", "vfio-user-pci"), ("11.1.3", "vfio-pci")])
def test_qemu_named_by_its_variable_that_will_not_do_is_refused(
    version: str, device: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFUSERVER_QEMU", str(qemu(tmp_path, version, device)))
    with pytest.raises(ObtainError, match=r"older than 10\.1 or has no vfio-user-pci\. Install QEMU >= 10\.1"):
        find_qemu()


def test_qemu_named_by_its_variable_that_is_no_program_is_refused(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFUSERVER_QEMU", str(tmp_path))
    with pytest.raises(ObtainError, match="no program that can be started"):
        find_qemu()


def test_qemu_on_the_path_is_taken_if_it_is_new_enough(no_apt: Path) -> None:
    qemu(no_apt, "11.1.3")
    assert find_qemu().origin == f"found on PATH: {no_apt / 'qemu-system-x86_64'}"


def test_qemu_replaced_by_another_version_is_asked_again(no_apt: Path) -> None:
    qemu(no_apt, "11.1.3")
    assert find_qemu().version == "11.1.3"
    qemu(no_apt, "12.0.10")
    assert find_qemu().version == "12.0.10"


def test_old_qemu_without_apt_says_what_to_install_and_which_variable(no_apt: Path) -> None:
    qemu(no_apt, "7.2.0")
    with pytest.raises(ObtainError) as caught:
        find_qemu()
    assert "cannot fetch qemu: apt-get is not installed" in str(caught.value)
    assert f"Install QEMU >= 10.1 (Debian: qemu-system-x86 of {SUITE} or newer)" in str(caught.value)
    assert "VFUSERVER_QEMU" in str(caught.value)


def test_kernel_without_apt_names_both_variables(no_apt: Path) -> None:
    with pytest.raises(ObtainError, match=r"VFUSERVER_GUEST_KERNEL .* VFUSERVER_GUEST_MODULES"):
        find_kernel()


def test_kernel_named_without_its_modules_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFUSERVER_GUEST_KERNEL", "/boot/vmlinuz")
    with pytest.raises(ObtainError, match="go together"):
        find_kernel()


def test_kernel_named_by_its_variables_is_taken(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFUSERVER_GUEST_KERNEL", str(program(tmp_path / "vmlinuz", "")))
    monkeypatch.setenv("VFUSERVER_GUEST_MODULES", str(tmp_path))
    kernel = find_kernel()
    assert (kernel.image, kernel.modules) == (tmp_path / "vmlinuz", tmp_path)


def test_vfio_kernel_named_by_its_variable_that_is_not_there_is_refused(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFUSERVER_VFIO_KERNEL", "/nowhere/bzImage")
    with pytest.raises(ObtainError, match="VFUSERVER_VFIO_KERNEL is /nowhere/bzImage, which does not exist"):
        find_kernel("vfio")


def test_busybox_in_the_cache_is_found_at_once(no_apt: Path, empty_cache: Path) -> None:
    path = program(empty_cache / SUITE / "busybox/usr/bin/busybox", "")
    start = time.perf_counter()
    assert find_busybox() == path
    assert time.perf_counter() - start < 0.05


def test_cache_that_cannot_be_written_is_named_with_its_variable(
    no_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VFUSERVER_CACHE", str(tmp_path / "file/below"))
    with pytest.raises(ObtainError, match=r"into .*/file/below \(VFUSERVER_CACHE names another folder\)"):
        find_busybox()


def test_mirror_named_by_its_variable_is_taken(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFUSERVER_DEBIAN_MIRROR", "file:///mirror")
    assert mirror(Path("unused")) == "file:///mirror"


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("http://x/other|Other|Other\nhttp://x/debian|Debian|Debian", "http://x/debian"),
        ("http://x/security|Debian|Debian-Security\nhttp://x/debian|Debian|Debian", "http://x/debian"),
        ("http://x/y|$(ORIGIN)|$(LABEL)\nhttp://x/debian/|$(ORIGIN)|$(LABEL)", "http://x/debian/"),
    ],
)
def test_mirror_is_the_one_that_says_it_is_debian(listing: str, expected: str, no_apt: Path, tmp_path: Path) -> None:
    program(no_apt / "apt-get", f"#!/bin/sh\necho '{listing}'\n")
    assert mirror(tmp_path) == expected


def test_machine_whose_apt_was_never_updated_reads_its_own_sources(no_apt: Path, tmp_path: Path) -> None:
    """A new machine: indextargets says nothing until there are lists."""
    program(
        no_apt / "apt-get",
        '#!/bin/sh\ncase "$*" in *Dir::State::lists=*update) echo > "${2#*=}/made" ;;\n'
        '*Dir::State::lists=*indextargets*) [ -e "${2#*=}/made" ] && echo "http://x/debian|Debian|Debian" ;; esac\n',
    )
    assert mirror(tmp_path / "lists") == "http://x/debian"


def test_mirror_of_another_distribution_is_not_taken(no_apt: Path, tmp_path: Path) -> None:
    program(no_apt / "apt-get", "#!/bin/sh\necho 'http://x/ubuntu|Ubuntu|Ubuntu'\n")
    with pytest.raises(ToolError, match="VFUSERVER_DEBIAN_MIRROR"):
        mirror(tmp_path)


def test_failing_apt_is_quoted(no_apt: Path) -> None:
    program(no_apt / "apt-get", "#!/bin/sh\necho 'W: hm' >&2\necho 'E: Temporary failure resolving' >&2\nexit 100\n")
    with pytest.raises(ObtainError, match=r"cannot fetch busybox: apt-get failed: E: Temporary failure resolving\. "):
        find_busybox()


def test_tool_without_a_compiler_says_what_to_install(no_apt: Path) -> None:
    with pytest.raises(ToolError, match="install gcc and libc6-dev"):
        build_tool("pcitool")


def test_accelerator_is_what_the_variable_says(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = Qemu(("/nowhere",), "10.1.0", "test")
    kernel = Kernel(Path("/nowhere"), None, "test")
    monkeypatch.setenv("VFUSERVER_ACCEL", "kvm")
    assert choose_accel(never, kernel) == "kvm"
    monkeypatch.setenv("VFUSERVER_ACCEL", "hvf")
    with pytest.raises(Exception, match="VFUSERVER_ACCEL must be kvm or tcg, not hvf"):
        choose_accel(never, kernel)
