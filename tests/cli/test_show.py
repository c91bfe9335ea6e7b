"""`show`: every section of a saved state by names and values, of a damaged one whatever can be read (S3.16)."""

import json
import random
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.device.migration.models import Everything, Streamed, Tiny
from tests.device.migration.moving import S, go, migration, read_all, save
from tests.device.migration.test_stream import sealed, sections
from vfuserver import load
from vfuserver.cli import main
from vfuserver.cli._saved_file import NewFile
from vfuserver.device.migration.contents import contents
from vfuserver.device.migration.stream import Parser, Section
from vfuserver.plain import encode

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
STREAM = HERE.parent / "device/migration/golden/everything-1.0.stream"
MODELS = HERE.parent / "device/migration/models.py"
IDS = {"vendor": 0x1234, "device": 0x77, "revision": 0, "class_code": 0, "subsystem_vendor": 0, "subsystem": 0}
ABOUT = {
    "shape": {"pci": IDS, "regions": {"BAR0": 4096, "BAR4": 4096}, "irqs": {"MSIX": 3}},
    "state": "RUNNING",
    "flags": ["STOP_COPY", "P2P"],
}


def written(path: Path, stream: bytes) -> Path:
    with NewFile(path, ABOUT, replace=True) as new:
        new.write(stream)
        new.finish()
    return path


async def tiny() -> bytes:
    device = Tiny()
    stream = await save(device)
    device.close()
    return stream


def test_show_of_a_whole_state_is_always_the_same(run: Run, tmp_path: Path) -> None:
    """Registers, State, jobs, timers, doorbells, interrupts, memory and configuration space by name and value."""
    written(tmp_path / "a.state", STREAM.read_bytes())
    done = run("show", "a.state", "--device", f"{MODELS}:Everything")
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout.replace(str(MODELS), "models.py")
    assert text.splitlines() == (GOLDEN / "show.txt").read_text().splitlines()
    found = json.loads(run("show", "a.state", "--device", f"{MODELS}:Everything", "--json").stdout)
    assert found["declarations"] == f"{MODELS}:Everything"
    found["declarations"] = "models.py:Everything"
    assert found == json.loads((GOLDEN / "show.json").read_text())


def test_without_the_model_the_stream_names_its_registers_and_state(run: Run) -> None:
    """Also a stream that was taken without `save`."""
    done = run("show", STREAM)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Declarations: none" in done.stdout
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["0x0000", "4", "0x5a5a", "scratch"] in words
    assert ["0x0010", "16", "4", "x", "0x0", "words[4]"] in words
    assert ["text", "'golden'"] in words
    assert ["work(7,", "'again')"] in words


async def test_an_installed_device_is_found_by_what_its_state_is_of(run: Run, tmp_path: Path) -> None:
    """Also a card's function, whose name is no device's; --device is for the others."""
    for name, place in (("edu", "vfuserver_devices.edu"), ("testdev", "vfuserver_devices.testdev")):
        device = load(name)()
        written(tmp_path / "a.state", await save(device))
        device.close()
        done = run("show", "a.state")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Declarations: {place}" in done.stdout
    done = run("show", "a.state", "--device", "edu")
    assert done.returncode == 2
    assert "the state is of a testdev, must be of a edu for edu" in done.stderr


async def test_memory_is_summed_up_and_shown_where_it_begins(run: Run, tmp_path: Path) -> None:
    device = load("testdev")()
    device.bars[2].windows[next(iter(device.bars[2].windows))][0x123:0x127] = b"here"
    stream = await save(device)
    size = len(stream)
    device.close()
    done = run("show", written(tmp_path / "a.state", stream))
    assert f"{size} bytes of state" in done.stdout
    assert "bytes not zero" in done.stdout
    assert "68 65 72 65" in done.stdout
    assert "all zero" in done.stdout


def test_a_state_of_another_server_is_shown_as_bytes(run: Run, tmp_path: Path) -> None:
    done = run("show", written(tmp_path / "a.state", b"somebody else's state"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "only its server knows" in done.stdout
    assert "somebody else's" in done.stdout


@pytest.mark.parametrize("damaged", [part.name for part in Parser().feed(STREAM.read_bytes())] + ["end"])
def test_a_damaged_section_is_named_and_the_others_are_shown(run: Run, tmp_path: Path, damaged: str) -> None:
    """S3.15: the exit code is 1, and what is right is readable; what is in a damaged section is shown as well."""
    stream = STREAM.read_bytes()
    whole = written(tmp_path / "a.state", stream).read_bytes()
    at = whole.index(damaged.encode().ljust(16, b"\0")) + 32
    path = tmp_path / "b.state"
    path.write_bytes(whole[: at + 6] + bytes([whole[at + 6] ^ 0x20]) + whole[at + 7 :])
    done = run("show", path, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert f"section '{damaged}'" in done.stderr
    assert "is damaged: its CRC-32 is" in found["problems"][0]
    wrong = [one["name"] for one in found["sections"] if one["problem"]]
    assert wrong == [damaged] if damaged == "memory" else set(wrong) == {damaged}
    assert all(one["value"] is not None for one in found["sections"] if not one["problem"] and one["name"] != "end")


def test_behind_a_damaged_header_it_goes_on_at_the_next_section(run: Run, tmp_path: Path) -> None:
    whole = written(tmp_path / "a.state", STREAM.read_bytes()).read_bytes()
    at = whole.index(b"registers\0")
    (tmp_path / "b.state").write_bytes(whole[: at + 20] + b"\xff\xff\xff\xff" + whole[at + 24 :])
    done = run("show", "b.state")
    assert done.returncode == 1
    assert f"at {at:#x}: 384 bytes are no section that can be read" in done.stderr
    assert "sections are missing, or damaged" in done.stderr
    assert "golden" in done.stdout
    assert "registers" not in done.stdout
    assert "work(7, 'again')" in done.stdout


@pytest.mark.parametrize("change", ["flip", "cut", "extend"])
async def test_every_damage_is_told_and_nothing_crashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """S3.15: in the head, in what is said about the device, in the stream."""
    path = written(tmp_path / "a.state", await tiny())
    whole = path.read_bytes()
    for at in range(0, len(whole), 3 if change == "flip" else 7):
        damaged = bytearray(whole)
        if change == "flip":
            damaged[at] ^= 0x10
        elif change == "cut":
            del damaged[at:]
        else:
            damaged += bytes(at + 1)
        path.write_bytes(damaged)
        with pytest.raises(SystemExit) as ended:
            main(["show", str(path)])
        assert ended.value.code == 1, at
        assert capsys.readouterr().err.startswith("vfuserver: error: ")


def test_forged_sections_are_read_or_said_to_be_none() -> None:
    """With CRCs that fit: whatever they say, it is shown."""
    chance = random.Random(1)
    parts = sections(STREAM.read_bytes())
    for _ in range(400):
        at = chance.randrange(len(parts))
        payload = bytearray(parts[at].payload)
        for _ in range(chance.randint(1, 3)):
            payload[chance.randrange(len(payload))] = chance.choice([0, 1, 0xFF, chance.randrange(256), *b"NTFidsablm"])
        forged = sealed([*parts[:at], Section(parts[at].name, 1, bytes(payload)), *parts[at + 1 :]])
        found = [*contents(forged, lambda _: Everything)]
        assert len(found) == len(parts) + 1
        assert all(one.value is not None for one in found if not one.problem and one.name != "end")


def test_what_a_later_version_says_is_shown_as_bytes(run: Run, tmp_path: Path) -> None:
    """S3.16: a section that nobody here knows."""
    parts = sections(STREAM.read_bytes())
    stream = sealed([*parts, Section("later", 2, b"from the future", optional=True)])
    done = run("show", written(tmp_path / "a.state", stream))
    assert (done.returncode, done.stderr) == (0, "")
    assert "later, 47 bytes" in done.stdout
    assert "version 2, optional" in done.stdout
    assert "from the future" in done.stdout


def test_odd_values_and_names_do_not_reach_the_terminal_as_they_are(run: Run, tmp_path: Path) -> None:
    """Escape sequences, numbers with more digits than Python writes, what JSON does not have."""
    state = {"a\x1b[2J": "\x1b[31m\ud800", "huge": 1 << 100_000, "no": float("nan"), "deep": {(1, b"k"): [(2,)]}}
    parts = [
        Section("state", 1, encode(state)) if one.name == "state" else one for one in sections(STREAM.read_bytes())
    ]
    path = written(tmp_path / "a.state", sealed(parts))
    done = run("show", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    values = {
        one["name"]: one["value"]
        for section in json.loads(run("show", path, "--json").stdout)["sections"]
        if section["name"] == "state"
        for one in section["value"]
    }
    assert values["huge"] == hex(1 << 100_000)
    assert (values["no"], values["deep"]) == ("nan", {"(1, b'k')": [[2]]})


async def test_pieces_that_came_twice_are_both_there() -> None:
    """S3.12: sent ahead, changed and sent again."""
    device = Streamed()
    await go(device, S.RUNNING, S.PRE_COPY)
    stream = read_all(device)
    device.pixels[5] = 1
    await go(device, S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY)
    stream += read_all(device)
    places = [one.value["offset"] for one in contents(stream, lambda _: Streamed) if one.name == "memory"]
    assert places == [0, 1 << 20, 2 << 20, 0]
    assert migration(device).read(1) == b""
    device.close()
