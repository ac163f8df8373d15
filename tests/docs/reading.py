"""Reads the documents: the commands that a shell makes of them, their blocks of code, and what stands in backquotes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import ROOT

Words = tuple[str, ...]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
# A sentence's backquotes hold a command where they begin so, and go on.
_PROGRAM = re.compile(r"(alref-edge|bash|cp|pip|python3?|\S+/bin/[\w-]+) ")
_OF_AN_ENVIRONMENT = re.compile(r"[\w./-]+/bin/([\w-]+)")
# For bash: no program can be found and hardly a builtin, and what would be run is written down with its line.
_WRITE_DOWN = r"""
for each in $(compgen -b); do [[ $each =~ ^(enable|printf|source)$ ]] || enable -n "$each"; done; enable -n enable
PATH=/dev/null
command_not_found_handle() { printf '%s\0' "${BASH_LINENO[-2]}" $# "$@"; }
.() { command_not_found_handle . "$@"; }
"""


@dataclass(frozen=True)
class Command:
    """A command of a document.

    Attributes:
        where: the document and the line, such as "README.md:12".
        words: as a shell splits and expands them; programs of an environment without their folder.
        mentioned: it stands in a sentence, not in a block.
    """

    where: str
    words: Words
    mentioned: bool = False

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words)}"


def documents() -> dict[str, str]:
    """The text of every Markdown file by its path; without the change log, which tells of what is no more."""
    done = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = sorted({*done.stdout.split("\0")} - {"", "CHANGELOG.md"})
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [content for name, content in _BLOCK.findall(text) if name == language]


def quoted(text: str) -> Iterator[tuple[int, str]]:
    """Line and content of each pair of backquotes in sentences and tables."""
    prose = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    for found in _INLINE.finditer(prose):
        yield prose.count("\n", 0, found.start()) + 1, " ".join(found[1].split())


def commands(name: str, text: str) -> list[Command]:
    """The commands in the `sh` blocks and in the sentences of a document.

    Args:
        name: the document's.
        text: its content.
    """
    lines = [""] * (text.count("\n") + 1)
    for block in _BLOCK.finditer(text):
        if block[1] == "sh":
            first = text.count("\n", 0, block.start()) + 1
            lines[first : first + block[2].count("\n")] = block[2].splitlines()
    found = [Command(f"{name}:{line}", words) for line, words in _split("\n".join(lines))]
    for number, content in quoted(text):
        if _PROGRAM.match(content):
            found += [Command(f"{name}:{number}", words, mentioned=True) for _, words in _split(content)]
    return found


def _split(script: str) -> Iterator[tuple[int, Words]]:
    """Line and words of each command that bash would run, which runs none of them."""
    programs = {found[0]: found[1] for found in _OF_AN_ENVIRONMENT.finditer(script)}
    functions = "".join(f'{path}() {{ command_not_found_handle {name} "$@"; }}\n' for path, name in programs.items())
    whole = f"set -eu\n{functions}{_WRITE_DOWN}source /dev/stdin"
    done = subprocess.run(["bash", "-c", whole], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{done.stderr}\nof\n{script}"
    fields = iter(done.stdout.split("\0")[:-1])
    for line in fields:
        count = int(next(fields))
        yield int(line), tuple(next(fields) for _ in range(count))
