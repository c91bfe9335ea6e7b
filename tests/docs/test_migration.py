"""docs/migration.md: its device migrates as it says, and its reader reads streams (S3.16)."""

from pathlib import Path
from typing import Any

import pytest

from tests.device.migration.moving import START, go, has_precopy, load, save
from tests.docs.blocks import ROOT, blocks
from vfuserver import CommandError
from vfuserver.device.migration.memory import SECTION
from vfuserver.device.migration.parts import PARTS
from vfuserver.device.migration.stream import END
from vfuserver.plain import decode

CAMERA, READER = (block for block in blocks("docs/migration.md") if block.language == "python")
GOLDEN = ROOT / "tests/device/migration/golden"


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "docs/migration.md", "exec"), names)
    return names


async def test_camera_migrates_and_refuses_what_it_says() -> None:
    kind: Any = run(CAMERA.text)["Camera"]
    source, target = kind(), kind()
    assert has_precopy(source)
    source.gain, source.pixels[:5] = 150, b"frame"
    await load(target, await save(source))
    await go(target, *START[1:])
    assert (target.gain, target.curve[100], bytes(target.pixels[:5])) == (150, 150, b"frame")
    third, fourth = kind(), kind()
    third.gain = 900
    with pytest.raises(CommandError, match="gain must be 1 to 800 %, not 900"):
        await load(fourth, await save(third))
    assert fourth.gain == 100
    for device in (source, target, third, fourth):
        device.close()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.stream")), ids=lambda path: path.stem)
def test_reader_reads_every_golden_file(path: Path) -> None:
    found = run(READER.text)["sections"](path.read_bytes())
    assert [name for name, *_ in found][:: len(found) - 1] == [PARTS[0].name, END]
    values = {name: decode(payload) for name, _, payload in found if name not in (SECTION, END)}
    assert set(values) == {part.name for part in PARTS}
    assert values["state"]["number"] == 42


def test_every_section_is_described() -> None:
    table = (ROOT / "docs/migration.md").read_text()
    for name in (SECTION, END, *(part.name for part in PARTS)):
        assert f"\n| `{name}` |" in table
