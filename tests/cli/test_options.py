"""What commands take: options under headings, each where it makes sense; selectors by a table of names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from alref_edge.cli import app
from alref_edge.cli.evaluate import _SELECTORS as EVALUATED
from alref_edge.cli.grouping import (
    DECIDES,
    HELP,
    INPUT,
    LIMITS,
    LLM,
    MODEL,
    OPTIONS,
    OUTPUT,
    RARE,
    RECORDED,
    RUNNING,
    SOUND,
)  # fmt: skip
from alref_edge.cli.selectors import PIVOT_SELECTORS, SOUND_SELECTORS, WithoutLlm
from alref_edge.pipeline import GroundingSelector
from alref_edge.types import Pivot
from tests.media.clips import make_clip

LINES = 30


def alref(*arguments: object) -> tuple[int, str]:
    """Exit code and all that is printed, on 80 columns."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})
    return done.exit_code, done.output


def commands(group: Any = None, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by its words."""
    group = group or get_command(app)
    for word, each in getattr(group, "commands", {}).items():
        yield from commands(each, (*name, word))
    if not hasattr(group, "commands"):
        yield name, group


COMMANDS = dict(commands())


def options_of(*name: str) -> set[str]:
    return {param.opts[0] for param in COMMANDS[name].params if param.param_type_name == "option"}


def shown_in(text: str) -> list[str]:
    """The options that stand under a heading."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.endswith(":") and not line.startswith(" "))
    return [line.split()[0] for line in lines[first:] if line.startswith("  -")]


def headings(text: str) -> list[str]:
    return [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]


def section(text: str, heading: str) -> str:
    """The lines under a heading."""
    return text.split(f"\n{heading}:\n")[1].split("\n\n")[0]


# The help


@pytest.mark.parametrize(
    ("name", "common", "rare"),
    [
        (("rvos",), (INPUT, MODEL, DECIDES, OUTPUT), (LLM, RECORDED, LIMITS, RUNNING)),
        (("avs",), (INPUT, MODEL, DECIDES, OUTPUT), (SOUND, LLM, RECORDED, LIMITS, RUNNING)),
        (("demo",), (OPTIONS, MODEL, OUTPUT), (RUNNING,)),
        (("eval", "synthetic"), (OPTIONS, MODEL, DECIDES, OUTPUT), (LLM, RUNNING)),
        (("eval", "sound"), (OPTIONS, MODEL, OUTPUT), (RUNNING,)),
    ],
)
def test_common_options_fit_one_screen_and_the_others_stand_beneath(
    name: tuple[str, ...], common: tuple[str, ...], rare: tuple[str, ...]
) -> None:
    code, short = alref(*name, "--help")
    assert code == 0
    assert headings(short) == [*common, HELP]
    assert len(short.splitlines()) <= LINES
    assert max(map(len, short.splitlines())) <= 80
    code, long = alref(*name, "--help-all")
    assert code == 0
    assert headings(long) == [*common, *rare, HELP]
    assert "Exit codes" in long


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_every_option_stands_under_one_heading(name: tuple[str, ...]) -> None:
    code, long = alref(*name, "--help-all")
    assert code == 0
    shown = shown_in(long)
    assert sorted(shown) == sorted({*options_of(*name), "--help"})
    _, short = alref(*name, "--help")
    rare = {
        param.opts[0]
        for param in COMMANDS[name].params
        if getattr(param, "rich_help_panel", None) in RARE and param.param_type_name == "option"
    }
    assert {*shown_in(short)} == {*shown} - rare


def test_options_stand_where_one_looks_for_them() -> None:
    _, long = alref("rvos", "--help-all")
    for heading, options in {
        INPUT: ("VIDEO", "--text", "--text-file", "--fps"),
        MODEL: ("--bundle", "--device", "--precision"),
        DECIDES: ("--selector", "--pivots"),
        LLM: ("--endpoint", "--llm-timeout", "--ask-short", "--transcript"),
        LIMITS: ("--limit-bytes", "--max-pivots-in-attention"),
        RUNNING: ("--quiet", "--debug", "--allow-fallback", "--component"),
    }.items():
        assert all(f"  {option} " in section(long, heading) for option in options), heading


# Each option where it makes sense

BOTH = {"--out", "--selector", "--endpoint", "--record", "--clip", "--fps", "--limit-bytes", "--ground-anew"}
ONLY = {
    ("rvos", "avs"): {"--text", "--text-file", "--pivots", "--ask-short"},
    ("avs", "rvos"): {
        "--audio", "--semantic", "--categories", "--silence-gate", "--setting", "--answers", "--segments",
    },
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ONLY)
def test_a_command_refuses_what_only_the_other_takes(one: str, other: str) -> None:
    assert options_of(one) - options_of(other) == ONLY[one, other]
    assert options_of(one) & options_of(other) > BOTH
    for option in ONLY[one, other]:
        code, printed = alref(other, "clip.mp4", option, "x")
        assert code == 2
        assert f"No such option: {option}" in printed


def test_one_command_for_both_is_none() -> None:
    code, printed = alref("run", "clip.mp4", "--text", "a ball")
    assert code == 2
    assert "No such command 'run'" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rvos", "--text", "a", "--clip", "x"], "--clip is an option of --record"),
        (["rvos", "--text", "a", "--ground-anew"], "--ground-anew is an option of --selector replay"),
        (["rvos", "--text", "a", "--pivots", "p.json"], "--selector replay and --pivots FILE go together"),
        (["avs", "--clip", "x"], "--clip is an option of --answers and --record"),
        (["avs", "--segments", "s.json"], "--segments is an option of --answers"),
        (["avs", "--answers", "."], "--selector replay and --answers FOLDER go together"),
        (["avs", "--llm-pixels", "9"], "--llm-pixels is an option of --selector mllm and mixed"),
        (["avs", "--in-flight", "9"], "--in-flight is an option of --selector mllm and mixed"),
    ],
)
def test_what_goes_with_another_option_says_with_which(arguments: list[str], words: str) -> None:
    code, printed = alref(arguments[0], "nothing.mp4", *arguments[1:])
    assert code == 2
    assert words in printed


# The tables of selectors


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("rvos", "nothing.mp4", "--text", "a"), PIVOT_SELECTORS),
        (("avs", "nothing.mp4"), SOUND_SELECTORS),
        (("eval", "synthetic"), EVALUATED),
    ],
)
def test_a_name_that_is_not_in_the_table_gets_the_table(arguments: tuple[str, ...], names: dict[str, Any]) -> None:
    *others, last = names
    code, printed = alref(*arguments, "--selector", "oracle")
    assert code == 2
    assert f"There is no such selector. Expected: {', '.join(others)} or {last}. Got: oracle." in printed
    _, text = alref(*arguments[: -3 if "--text" in arguments else None], "--help")
    assert all(name in section(text, DECIDES) for name in names)


def test_what_is_evaluated_is_the_table_without_replays() -> None:
    assert list(EVALUATED) == [name for name in PIVOT_SELECTORS if name != "replay"]


class MiddleOfTheFrame(GroundingSelector):
    """Knows without looking: the frame's middle, on the first one."""

    def given(self, sentence: str) -> Any:
        return [Pivot(0, np.float32([30, 20, 90, 70]), 1.0, "middle")]


def test_a_selector_is_added_by_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIVOT_SELECTORS, "middle", WithoutLlm(lambda options: MiddleOfTheFrame("middle")))
    clip = make_clip(tmp_path / "clip.mp4", frames=12)
    code, printed = alref(
        *("rvos", clip, "--text", "a ball", "--selector", "middle", "--out", tmp_path / "out", "--device", "cpu"),
        *("--masks", "none", "--no-overlay", "--threads", "1"),
    )
    assert code == 0, printed
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["selector"] == "middle"
    assert [pivot["box"] for pivot in record["sentences"][0]["pivots"]] == [[30, 20, 90, 70]]
