"""Cards on the command line: a socket for each function, one process for all of them."""

import json
import shlex
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client

OUT_LOW, IN_LOW = 0, 1
HEADER_TYPE = 0x0E

CARD = """
from vfuserver import Bar, Card, Function, PciDevice, PciIdentity

class Port(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x5678)
    bar = Bar(0, size=16)

class Mine(Card):
    left = Function(Port)
    right = Function(Port)
    middle = Function(Port)
"""


async def test_serve_serves_each_function_on_its_own_socket(serve: Serve, tmp_path: Path) -> None:
    """One process, two clients; what one writes the other reads by way of the card."""
    with serve("idio-pair", "--socket", "f0.sock", "--socket", "f1.sock", count=2) as serving:
        assert serving.lines == ["ready idio-pair.0 f0.sock", "ready idio-pair.1 f1.sock"]
        async with (
            await Client.connect(tmp_path / "f0.sock") as first,
            await Client.connect(tmp_path / "f1.sock") as second,
        ):
            for client in (first, second):
                await client.enable()
                assert (await client.config_space())[HEADER_TYPE] == 0x80
            await first.region_write(2, OUT_LOW, b"\x5a")
            assert await second.region_read(2, IN_LOW, 1) == b"\x5a"
            await second.reset()
            assert await first.region_read(2, OUT_LOW, 1) == b"\x5a"
        code, _, err = serving.end(signal.SIGINT)
    assert code == 0, err
    assert "idio-pair.1: reset (VFIO_USER_DEVICE_RESET)" in err
    assert "idio-pair.0: reset" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("serve", "idio-pair", "--socket", "f0.sock"),
            "idio-pair is a card and must have a socket for each of its 2 functions, not 1; in this order: "
            "0 (first), 1 (second)",
        ),
        (("serve", "idio-pair", *("--socket", "f.sock") * 3), "its 2 functions, not 3"),
        (("serve", "idio-pair", "--socket", "f.sock", "--socket", "f.sock"), "a live server listens on f.sock"),
        (
            ("serve", "idio-pair", *("--socket", "f") * 2, "--set", "loud=1"),
            "idio-pair has no option loud; it has wired",
        ),
        (("serve", "edu", "--socket", "e0", "--socket", "e1"), "edu is one device and must have one socket, not 2"),
        (("qemu-args", "idio-pair", "f0.sock"), "its 2 functions, not 1"),
        (("qemu-args", "edu", "e0", "e1"), "edu is one device and must have one socket, not 2"),
    ],
)
def test_a_wrong_number_of_sockets_says_how_many_and_leaves_nothing(
    run: Run, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_card_in_a_file_is_served_from_a_configuration_file(serve: Serve, tmp_path: Path) -> None:
    """The file's only card is meant, though its function is a device, too."""
    (tmp_path / "mine.py").write_text(CARD)
    (tmp_path / "all.toml").write_text('[[device]]\ndevice = "mine.py"\nsocket = ["a", "b", "c"]\nname = "board"\n')
    with serve("--config", "all.toml", count=3) as serving:
        assert serving.lines == ["ready board.0 a", "ready board.1 b", "ready board.2 c"]


def test_qemu_args_put_the_functions_into_one_slot(run: Run, tmp_path: Path) -> None:
    """Each with multifunction=on, without which QEMU clears bit 7 of the header type; function 0 first."""
    words = shlex.split(run("qemu-args", "idio-pair", "f0.sock", "f1.sock").stdout)
    devices = [json.loads(word) for word in words if word.startswith("{")]
    assert [(one["id"], one["addr"], one["multifunction"]) for one in devices] == [
        ("idio-pair.0", "0x10.0", True),
        ("idio-pair.1", "0x10.1", True),
    ]
    assert [one["socket"]["path"] for one in devices] == [str(tmp_path / "f0.sock"), str(tmp_path / "f1.sock")]


def test_list_shows_how_many_functions_a_card_has(run: Run) -> None:
    (line,) = (line for line in run("list").stdout.splitlines() if line.startswith("idio-pair"))
    assert line.split()[1:4] == ["494f:0dc8", "x", "2"]
    (listed,) = (one for one in json.loads(run("list", "--json").stdout) if one["name"] == "idio-pair")
    assert listed["functions"] == 2


def test_describe_shows_each_function_and_the_card_s_options(run: Run) -> None:
    text = run("describe", "idio-pair", "--set", "wired=no").stdout
    assert text.startswith("idio-pair: Two PCI-IDIO-16 on one card")
    assert "no (default yes)" in text
    assert "Function 0, first: " in text
    assert "Function 1, second: " in text
    assert text.count("BAR2 ports: 256 bytes, I/O ports") == 2
    one = json.loads(run("describe", "idio-pair", "--json").stdout)
    assert [function["identity"]["vendor"] for function in one["functions"]] == [0x494F, 0x494F]
    assert one["options"][0]["value"] is True
