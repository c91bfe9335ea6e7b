"""docs/tutorial.md, executed as it stands: every file written, every command run, every output compared."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.blocks import ANY, Block, Command, blocks, matches

TUTORIAL = "docs/tutorial.md"
SECONDS = 120.0


def test_tutorial_works_as_it_stands(workshop: Path) -> None:
    kinds = set()
    with ExitStack() as servers:
        for block in blocks(TUTORIAL):
            kinds.add((block.language, block.label))
            if block.language == "python":
                (workshop / block.label).write_text(block.text)
            elif block.label == "server":
                servers.enter_context(server(block))
            elif block.label != "guest":
                run_commands(block)
    assert kinds == {
        ("python", "lamp.py"),
        ("python", "try_lamp.py"),
        ("console", ""),
        ("console", "server"),
        ("console", "guest"),
    }


@pytest.mark.guest
def test_tutorial_s_guest_reads_the_register(workshop: Path) -> None:
    told = 0
    for block in blocks(TUTORIAL):
        if block.language == "python":
            (workshop / block.label).write_text(block.text)
        elif block.label == "guest":
            talk_to_guest(block)
            told += 1
    assert told == 1


def run_commands(block: Block) -> None:
    for command in block.commands:
        done = subprocess.run(
            ["bash", "-c", command.words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
        )
        check(block, command, done.stdout.splitlines())


@contextmanager
def server(block: Block) -> Iterator[None]:
    """A command that runs until the end, once it has said what the document shows."""
    (command,) = block.commands
    words = ["bash", "-c", f"exec {command.words}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        check(block, command, [process.stdout.readline() for _ in command.output])
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0


def talk_to_guest(block: Block) -> None:
    """The first command boots a guest, the others are typed into its shell; `exit` is the last."""
    first, *typed = block.commands
    assert [command.in_guest for command in block.commands] == [False] + [True] * len(typed)
    words = ["bash", "-c", f"exec {first.words}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        output: list[str] = []
        while not output or not output[-1].endswith("ends QEMU."):
            output.append(clean(process.stdout))
        check(block, first, [*output, ""])
        process.stdin.write("stty -echo; PS1=; echo begin\n")
        process.stdin.flush()
        while clean(process.stdout) != "begin":
            continue
        for command in typed[:-1]:
            process.stdin.write(f"{command.words}; echo end\n")
            process.stdin.flush()
            answers: list[str] = []
            while not answers or answers[-1] != "end":
                answers.append(clean(process.stdout))
            check(block, command, answers[:-1])
        process.communicate(f"{typed[-1].words}\n", timeout=SECONDS)
    assert process.returncode == 0


def clean(stream: object) -> str:
    line = stream.readline()  # type: ignore[attr-defined]
    assert line, "the guest has ended"
    return str(line).replace("\r", "").rstrip("\n")


def check(block: Block, command: Command, got: list[str]) -> None:
    assert matches(command.output, got) or command.output == (ANY,), (
        f"{TUTORIAL}, block at line {block.line}: {command.words}\nshows\n{command.output}\nand it is\n{got}"
    )
