"""`vfuserver probe SOCKET`: as a client, against our server and against what is none."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from tests.lspci import Lspci
from tests.pci import one_of_each
from tests.pci.decoding import check_decoded
from vfuserver.device.loader import load
from vfuserver.pci.lspci import render


@pytest.fixture
def testdev(serve: Serve, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "t.sock"
    with serve("testdev", "--socket", path):
        yield path


def test_probe_shows_regions_interrupts_and_capabilities(run: Run, testdev: Path) -> None:
    rows = [line.split() for line in run("probe", testdev).stdout.splitlines()]
    assert ["max_msg_fds", "16"] in rows
    assert [
        "2",
        "BAR2",
        "1",
        "MiB",
        "READ",
        "WRITE",
        "MMAP",
        "CAPS",
        "at",
        "0x0",
        "0x1000+0x3f000",
        "0x80000+0x80000",
    ] in rows
    assert ["2", "MSIX", "8", "EVENTFD", "MASKABLE"] in [row[:5] for row in rows]
    assert ["0x100", "0x03", "DeviceSerialNumber", "v1"] in rows


def test_probe_json_is_data(run: Run, testdev: Path) -> None:
    found = json.loads(run("probe", testdev, "--json").stdout)
    assert found["version"] == "0.0"
    assert found["device"]["flags"] == ["RESET", "PCI"]
    assert [region["size"] for region in found["regions"]][:6] == [4096, 4096, 1 << 20, 0, 4096, 256]
    assert found["regions"][2]["areas"][0] == {"offset": 0x1000, "size": 0x3F000}
    assert found["regions"][2]["descriptor"]
    assert (found["pci"]["vendor"], found["pci"]["device"]) == (0x1234, 0x7E57)
    assert bytes.fromhex(found["config_space"])[:4] == bytes.fromhex("3412577e")


def test_probe_config_space_has_the_format_of_lspci(run: Run, testdev: Path) -> None:
    lines = run("probe", testdev, "--config-space").stdout.splitlines()
    assert lines[0] == "00:00.0 Class ff00: Device 1234:7e57 (rev 01)"
    assert lines[1].startswith("00: 34 12 57 7e ")
    assert lines[256].startswith("ff0: ")


def test_probe_config_space_is_the_device_s_own_image(run: Run, testdev: Path) -> None:
    """What the guest's lspci is compared with (tests/system) is what probe prints."""
    device = load("testdev")()
    expected = render(device.config.image)
    device.close()
    assert run("probe", testdev, "--config-space").stdout == expected


@pytest.mark.parametrize("device", ["testdev", f"{one_of_each.__file__}:OneOfEach"], ids=["testdev", "one of each"])
def test_probe_config_space_is_decoded_by_lspci_without_a_complaint(
    run: Run, serve: Serve, lspci: Lspci, tmp_path: Path, device: str
) -> None:
    """S2.11: what a client reads shows every capability that the device declares, with its values."""
    declared = load(device)()
    with serve(device, "--socket", tmp_path / "socket"):
        text = lspci(run("probe", tmp_path / "socket", "--config-space").stdout, "-vvvnn")
    check_decoded(text, declared.config.capabilities)
    declared.close()


def test_probe_changes_nothing_and_leaves_the_server_ready(run: Run, testdev: Path) -> None:
    first, second = (run("probe", testdev, "--json").stdout for _ in range(2))
    assert first == second


def test_probe_where_nobody_listens_exits_1(run: Run, tmp_path: Path) -> None:
    done = run("probe", "nowhere.sock")
    assert done.returncode == 1
    assert done.stderr == "vfuserver: error: cannot connect to nowhere.sock: No such file or directory\n"


def test_probe_of_a_busy_device_exits_1_and_says_so(run: Run, testdev: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(testdev))
        done = run("probe", testdev)
    assert done.returncode == 1
    assert "is the device in use?" in done.stderr


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"", b"\0" * 64])
def test_probe_of_something_else_exits_1_without_a_traceback(run: Run, tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "other.sock"))
        listener.listen()

        def serve_one() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.recv(100)
                connected.send(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        done = run("probe", "other.sock", "--timeout", "2")
        thread.join()
    assert done.returncode == 1
    assert "vfuserver: error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_probe_of_a_silent_server_gives_up(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute.sock"))
        listener.listen()
        done = run("probe", "mute.sock", "--timeout", "0.2")
    assert done.returncode == 1
    assert "no reply" in done.stderr
