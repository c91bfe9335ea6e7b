"""The code blocks of a Markdown file, in order, with what their first line says.

A block's first word is its language. What follows is for the tests: a file's name (`python lamp.py`: write it), or
`server` and `guest` for `console` blocks. In a console block lines that start with a prompt are commands, the lines
after one are its output, and a line `...` stands for any lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?P<prompt>\$|~ #) ")
ANY = "..."


@dataclass(frozen=True)
class Command:
    """One command of a console block and the output that the document shows."""

    words: str
    output: tuple[str, ...]
    in_guest: bool


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where it begins."""

    language: str
    label: str
    text: str
    line: int

    @property
    def commands(self) -> list[Command]:
        """What a console block does."""
        found: list[tuple[str, list[str], bool]] = []
        for line in self.text.splitlines():
            prompt = _PROMPT.match(line)
            if prompt:
                found.append((line[prompt.end() :], [], prompt["prompt"] != "$"))
            else:
                assert found, f"line {self.line}: a console block must begin with a command"
                found[-1][1].append(line)
        return [Command(words, tuple(output), in_guest) for words, output, in_guest in found]


def blocks(name: str) -> Iterator[Block]:
    """The blocks of a file of the project."""
    text = (ROOT / name).read_text()
    for match in _FENCE.finditer(text):
        language, _, label = match["info"].strip().partition(" ")
        yield Block(language, label, match["text"], text.count("\n", 0, match.start()) + 1)


def matches(expected: tuple[str, ...], got: list[str]) -> bool:
    """True if `got` is `expected`, where `...` stands for any number of lines; spaces at ends of lines do not count."""
    pattern = "".join(r"(?:[^\n]*\n)*?" if line == ANY else re.escape(line.rstrip()) + r" *\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in got)) is not None
