"""README.md and CONTRIBUTING.md: the example works, what is named exists, and nothing is of one machine only."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.test_tutorial import run_commands

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/devices.md", "docs/cli.md", "docs/migration.md")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
PATH = re.compile(r"`((?:vfuserver|devices|tests|docs|qemu-configs)/[\w./-]+)`")


def test_readme_s_device_is_what_it_shows(workshop: Path) -> None:
    done = []
    for block in blocks("README.md"):
        if block.language == "python":
            (workshop / block.label).write_text(block.text)
            assert len([line for line in block.text.splitlines() if line.strip()]) <= 10
        elif block.language == "console":
            run_commands(block)
        done.append(block.language)
    assert {"python", "console"} <= set(done)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_paths_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for link in LINK.findall(text):
        assert ((ROOT / name).parent / link).exists(), link
    for path in PATH.findall(text):
        assert "NAME" in path or (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(name: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / name).read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(targets)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_knows_this_machine(name: str) -> None:
    assert not re.search(r"/(home|root|work)/", (ROOT / name).read_text())
