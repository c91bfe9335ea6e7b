"""`vfuserver serve --rom FILE`: an expansion ROM for any device (S2.14)."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client
from vfuserver.testing.rom import rom_image
from vfuserver.vfio import PciRegion

CONTENT = rom_image(0x1234, 0x11E8, units=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edu.rom"
    path.write_bytes(CONTENT)
    return path


async def test_serve_gives_the_device_the_rom_of_a_file(serve: Serve, run: Run, tmp_path: Path, file: Path) -> None:
    with serve("edu", "--socket", "edu.sock", "--rom", file) as serving:
        async with await Client.connect(tmp_path / "edu.sock") as client:
            await client.enable()
            assert await client.region_read(PciRegion.ROM, 0, 2048) == CONTENT.ljust(2048, b"\xff")
        (line,) = (line for line in run("probe", "edu.sock").stdout.splitlines() if line.split()[:2] == ["6", "ROM"])
        assert line.split() == ["6", "ROM", "2", "KiB", "READ"]
        _, _, err = serving.end()
    assert "warning" not in err


def test_serve_warns_of_a_rom_for_another_device(serve: Serve, file: Path) -> None:
    with serve("testdev", "--socket", "t.sock", "--rom", file) as serving:
        _, _, err = serving.end()
    assert "testdev: firmware will not run the expansion ROM" in err
    assert "the image at 0x0 is for 1234:11e8, not 1234:7e57" in err


@pytest.mark.parametrize(("limit", "warned"), [("0x100000", True), ("0x200000", False)])
def test_serve_warns_of_a_rom_that_no_message_can_hold(serve: Serve, file: Path, limit: str, warned: bool) -> None:
    """QEMU 11.1 reads a ROM in one message: "vfio: Error reading device ROM: Invalid argument"."""
    file.write_bytes(rom_image(0x1234, 0x11E8, units=2049))
    with serve("edu", "--socket", "edu.sock", "--rom", file, "--max-data-xfer-size", limit) as serving:
        _, _, err = serving.end()
    assert ("QEMU cannot read the expansion ROM of 2097152 bytes" in err) == warned


def test_a_rom_of_a_configuration_file_lies_beside_it(serve: Serve, run: Run, tmp_path: Path, file: Path) -> None:
    (tmp_path / "etc").mkdir()
    file.rename(tmp_path / "etc" / "edu.rom")
    (tmp_path / "etc" / "all.toml").write_text('[[device]]\ndevice = "edu"\nsocket = "s"\nrom = "edu.rom"\n')
    with serve("--config", "etc/all.toml"):
        assert "6      ROM     2 KiB" in run("probe", "etc/s").stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("edu", "--socket", "s", "--rom", "none.rom"), "none.rom must be a file that can be read: No such file"),
        (("idio-pair", "--socket", "s", "--socket", "t", "--rom", "edu.rom"), "idio-pair is a card"),
        (("--config", "x.toml", "--rom", "edu.rom"), "drop DEVICE, --socket, --fd, --set, --rom"),
    ],
)
def test_a_rom_that_cannot_be_exits_2_and_serves_nothing(
    run: Run, tmp_path: Path, file: Path, words: tuple[str, ...], text: str
) -> None:
    done = run("serve", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_describe_shows_a_class_s_own_rom(run: Run, tmp_path: Path, file: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from vfuserver import PciDevice, PciIdentity, Rom\n"
        "class Mine(PciDevice):\n"
        "    identity = PciIdentity(vendor=0x1234, device=0x11E8)\n"
        "    rom = Rom('edu.rom', size=8192)\n"
    )
    assert f"Expansion ROM 8 KiB from {file}" in run("describe", "mine.py").stdout
