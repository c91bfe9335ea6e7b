"""Layouts are declared once, where the server needs them: its client, which stands above, declares none."""

import ast
from pathlib import Path

import vfuserver.client

DECLARING = {"Layout", "Struct", "struct"}


def test_the_client_declares_no_layout() -> None:
    files = sorted(Path(vfuserver.client.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for path in files:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {getattr(func, "id", getattr(func, "attr", "")) for func in calls}
        assert not names & DECLARING, path.name
