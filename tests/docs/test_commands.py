"""Every command of the documents: run on the shipped bundle, or else read by its program's own parser."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from alref_edge.cli import app
from tests.conftest import ROOT
from tests.docs.reading import Command, Words, commands, documents

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


class Misused(Exception):
    """A program would refuse the words."""


# Each of these reads a command, and raises Misused.


def alref_edge(words: Words) -> None:
    """Commands, options, their types, and what is required, as click has them."""
    command, left = get_command(app), list(words[1:])
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    if hasattr(command, "commands"):
        raise Misused(f"no such command: {' '.join(words)}")
    try:
        command.make_context(command.name, left)
    except typer.Exit:
        pass  # --help
    except Exception as error:
        raise Misused(str(error)) from error


class _Read(Exception):
    """A parser took the words: the program ends here."""


def module(words: Words) -> None:
    """What `python -m` starts begins, and ends where its argparse has read the words."""
    name, *left = words[2:]
    read = argparse.ArgumentParser.parse_args

    def and_end(parser: argparse.ArgumentParser, argv: list[str]) -> None:
        read(parser, argv)
        raise _Read

    program = import_module(f"{name}.__main__")
    with pytest.MonkeyPatch.context() as patch, suppress(_Read):
        patch.setattr(argparse.ArgumentParser, "parse_args", and_end)
        try:
            status = program.main(left)
        except SystemExit as end:
            status = end.code
        if status != 0 or left[-1:] != ["--help"]:
            raise Misused(f"{' '.join(words)}: it ends with {status}")


def torchrun(words: Words) -> None:
    """torch's launcher, and then the module that it launches."""
    launcher = pytest.importorskip("torch.distributed.run", reason="torch comes with the extra export")
    try:
        given = launcher.get_args_parser().parse_args(words[3:])
    except SystemExit as end:
        raise Misused(" ".join(words)) from end
    if not given.module:
        raise Misused("no module is launched")
    module(("python", "-m", given.training_script, *given.training_script_args))


def part_of_the_tests(words: Words) -> None:
    """A part of the tests, or those of a marker."""
    marks = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    if not (words[3] == "-m" and words[4] in marks if words[3:4] == ("-m",) else (ROOT / words[-1]).exists()):
        raise Misused(" ".join(words))


def script(words: Words) -> None:
    """A script of the tree, which bash can read; given a folder or nothing."""
    if not (ROOT / words[1]).is_file() or len(words) > 3:
        raise Misused(" ".join(words))
    subprocess.run(["bash", "-n", ROOT / words[1]], check=True)


def one_folder(words: Words) -> None:
    """The last word is no option; of it nothing is known."""
    if words[-1].startswith("-"):
        raise Misused(" ".join(words))


def pip(words: Words) -> None:
    """A file of constraints that is there, extras that there are, and names of packages."""
    left = [word for word in words[2:] if word not in ("-q", "-e", "--no-build-isolation")]
    if left[0] == "-c" and (ROOT / left[1]).is_file():
        left = left[2:]
    for word in left:
        extras = word.removeprefix(".[").removesuffix("]").split(",") if word.startswith(".[") else []
        if word.startswith("-") or not set(extras) <= set(PROJECT["project"]["optional-dependencies"]):
            raise Misused(f"{word} in {' '.join(words)}")


def in_run_sh(words: Words) -> None:
    """`tests/run.sh` runs it."""
    line = f'/bin/{words[0]}" {" ".join(words[1:])}'.rstrip()
    if line not in (ROOT / "tests" / "run.sh").read_text(encoding="utf-8"):
        raise Misused(" ".join(words))


def copied(words: Words) -> None:
    """Files of these names are in the folder to which they are copied."""
    *sources, folder = words[2:]
    if words[1] != "-r" or not all((ROOT / folder / Path(source).name).exists() for source in sources):
        raise Misused(" ".join(words))


# What is run, with what it is given beside its words. The last of an option counts: `--device cuda` is the CPU here.
# One scene stands for a range of them, and what `conftest.py` makes for what a reader brings.
SMALL = ("--device", "cpu", "--seeds", "9", "--frames", "8", "--size", "112")
RUN: dict[str, Words] = {
    "alref-edge demo": ("--device", "cpu", "--out", "another"),
    "alref-edge rvos": ("--device", "cpu"),
    "alref-edge avs": ("--device", "cpu"),
    "alref-edge eval synthetic": SMALL,
    "alref-edge eval sound": SMALL,
    "alref-edge agree": (),
    "alref-edge bundle verify": (),
    "alref-edge doctor": (),
    "alref-edge synth": (),
    "python -m benchmarks": (),
}
# What is only read: why it is not run, and by what it is read.
READ: dict[str, tuple[str, Callable[[Words], None]]] = {
    "alref-edge mllm serve": ("vLLM and weights, until it is interrupted; see tests/mllm", alref_edge),
    "python -m export": ("official weights, minutes; see tests/export", module),
    "python -m export.nano": ("hours; see tests/export/nano", module),
    "python -m torch.distributed.run": ("hours", torchrun),
    "python -m benchmarks components": ("minutes at full sizes", module),
    "python -m benchmarks reference": ("the official code", module),
    "python -m benchmarks vectors": ("the official code", module),
    "python -m benchmarks sharing": ("minutes", module),
    "python -m benchmarks overlap": ("minutes", module),
    "python -m benchmarks memory": ("minutes", module),
    "python -m benchmarks mllm": ("vLLM", module),
    "python -m benchmarks gpu": ("minutes; see tests/benchmarks", module),
    "python -m benchmarks compare": ("two results; see tests/benchmarks", module),
    "python -m benchmarks report": ("see tests/benchmarks", module),
    "python -m benchmarks skeleton": ("a large bundle; see tests/benchmarks", module),
    "python -m tests.mllm.tiny_model": ("vLLM, for which alone it writes", one_folder),
    "python -m pytest": ("it runs this", part_of_the_tests),
    "bash": ("an environment of its own, in which this runs", script),
    "python3 -m venv": ("an environment", one_folder),
    ".": ("an environment", one_folder),
    "pip install": ("an index of packages", pip),
    "cp": ("what training leaves", copied),
    "ruff": ("tests/run.sh does", in_run_sh),
    "mypy": ("tests/run.sh does", in_run_sh),
    "lint-imports": ("tests/run.sh does", in_run_sh),
}


def look_up(command: Command) -> str | None:
    """Its name in the tables: the longest there with which it begins."""
    names = (" ".join(command.words[:count]) for count in range(len(command.words), 0, -1))
    return next((name for name in names if name in RUN or name in READ), None)


def is_named(command: Command) -> bool:
    """Whether a sentence names it, without what it may need."""
    return command.mentioned and " ".join(command.words) == look_up(command)


def read(command: Command) -> None:
    """Reads a command with the parser of its program.

    Raises:
        Misused: the program would refuse it, or it is in no table.
    """
    name = look_up(command)
    if name is None:
        raise Misused(f"{command}: say in a table of this test whether it is run or read")
    parser = READ[name][1] if name in READ else alref_edge if command.words[0] == "alref-edge" else module
    parser((*command.words, "--help") if is_named(command) else command.words)


COMMANDS = [command for name, text in documents().items() for command in commands(name, text)]
TO_READ = [each for each in COMMANDS if look_up(each) not in RUN or is_named(each)]
TO_RUN = {
    (*(re.sub(r"^\d+:\d+$", "9", word) for word in each.words), *RUN[look_up(each) or ""]): each
    for each in COMMANDS
    if each not in TO_READ
}


@pytest.mark.parametrize("command", TO_READ, ids=str)
def test_its_parser_takes_it(command: Command) -> None:
    read(command)


@pytest.mark.parametrize("words", TO_RUN, ids=lambda words: str(TO_RUN[words]))
def test_it_runs(words: Words, place: Path, reader: dict[str, str]) -> None:
    python = [sys.executable, "-m", "alref_edge"] if words[0] == "alref-edge" else [sys.executable]
    done = subprocess.run(
        [*python, *words[1:]], cwd=place, env=reader, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alref-edge demo --sed 3", "No such option"),
        ("alref-edge demo --seed three", "valid integer"),
        ("alref-edge bundle verify", "Missing"),
        ("alref-edge bundle check engines/large", "in a table"),
        ("alref-edge show VIDEO", "in a table"),
        ("python -m export sam2 --variant nano --bundle b --vocab v", "ends with 2"),
        ("python -m export sam2 --bundle b", "ends with 2"),
        ("python -m export.nano sam3 --folder f", "ends with 2"),
        ("python -m benchmarks memory --frame many", "ends with 2"),
        ("python -m benchmarks nothing", "ends with 2"),
        ("python -m tests", "in a table"),
        ("bash tests/walk.sh", "walk.sh"),
        ("pip install '.[cpu,all]'", r"\.\[cpu,all\]"),
        ("pip install -c constraints.txt torch", "-c"),
        (".venv-test/bin/ruff check --fix .", "ruff check --fix"),
        (".venv-test/bin/python -m pytest -m slow", "slow"),
        ("curl https://example.org", "in a table"),
        ("cd engines", "in a table"),
    ],
)
def test_a_planted_mistake_is_found(line: str, message: str) -> None:
    found = commands("planted.md", f"Text\n\n```sh\nalref-edge demo && {line}   # a remark\n```\n")
    assert found[0] == Command("planted.md:4", ("alref-edge", "demo"))
    read(found[0])
    with pytest.raises(Misused, match=message):
        read(found[1])


def test_a_shell_splits_them() -> None:
    block = "# No command.\nw='a b' && for n in 1 2; do cp $w/$n \\\n  {x,y}; done\n"
    text = f"Say `alref-edge eval synthetic\n--seeds 0:2`, `--seeds`, `eval`.\n```sh\n{block}```\n"
    assert commands("a.md", text) == [
        Command("a.md:5", ("cp", "a", "b/1", "x", "y")),
        Command("a.md:5", ("cp", "a", "b/2", "x", "y")),
        Command("a.md:1", ("alref-edge", "eval", "synthetic", "--seeds", "0:2"), mentioned=True),
    ]
