"""Who decides: the names of `--selector`, how each is made, and the options that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeAlias, TypeVar

import typer

from alref_edge.cli.console import read_lines
from alref_edge.cli.grouping import DECIDES, LLM, RECORDED, SOUND
from alref_edge.cli.llm import Asking, LlmOptions
from alref_edge.cli.options import Clip
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import AvsSettings, Pipeline, PivotSelector, SoundSelector

Options = TypeVar("Options")
Made = TypeVar("Made")


@dataclass(frozen=True)
class WithoutLlm(Generic[Options, Made]):
    """A selector that is made of a command's options; whether it replays what was recorded."""

    make: Callable[[Options], Made]
    replays: bool = False


@dataclass(frozen=True)
class WithLlm(Generic[Made]):
    """A selector that asks the LLM."""

    make: Callable[[Asking], Made]
    replays: ClassVar[bool] = False


GroundAnew: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--ground-anew",
        rich_help_panel=RECORDED,
        help="With --selector replay: find boxes anew where they were recorded too.",
    ),
]
Choice: TypeAlias = WithoutLlm[Options, Made] | WithLlm[Made]


def choose(
    table: Mapping[str, Choice[Options, Made]], names: Sequence[str], llm: LlmOptions
) -> list[Choice[Options, Made]]:
    """The selectors of these names.

    Raises:
        InputError: there is no such name, or options for the LLM are given, and none of them asks it.
    """
    for name in names:
        if name not in table:
            raise InputError("There is no such selector.", expected=either(table), got=name, mend="choose one.")
    choices = [table[name] for name in names]
    if not any(isinstance(choice, WithLlm) for choice in choices):
        llm.refuse([name for name, choice in table.items() if isinstance(choice, WithLlm)])
    return choices


@contextmanager
def open_selectors(choices: Sequence[Choice[Options, Made]], options: Options, llm: LlmOptions) -> Iterator[list[Made]]:
    """Make the selectors, with one client of the LLM's server for all that ask, closed at the end.

    Raises:
        InputError: options that make no sense, or a file of them cannot be read.
        MllmError: no server runs, or it does not answer.
    """
    with ExitStack() as stack:
        asking: Asking | None = None
        selectors = []
        for choice in choices:
            if isinstance(choice, WithLlm):
                asking = asking or stack.enter_context(llm.asking())
                selectors.append(choice.make(asking))
            else:
                selectors.append(choice.make(options))
        yield selectors


def either(names: Iterable[str]) -> str:
    """The names for a person: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def listed(table: Mapping[str, object]) -> str:
    """The names for a help text; the first is the default."""
    first, *others = table
    return f"{either([f'{first} (if left out)', *others])}."


# Sentences


def _grounding(_: PivotOptions) -> PivotSelector:
    from alref_edge.pipeline import GroundingSelector

    return GroundingSelector()


def _mixed(asking: Asking) -> PivotSelector:
    from alref_edge.pipeline import GroundingSelector

    return asking.pivots(GroundingSelector())


def _replay(options: PivotOptions) -> PivotSelector:
    from alref_edge.pipeline import ReplaySelector

    assert options.pivots is not None
    return ReplaySelector.from_file(options.pivots, ground_anew=options.ground_anew)


PIVOT_SELECTORS: dict[str, Choice[PivotOptions, PivotSelector]] = {
    "grounding": WithoutLlm(_grounding),
    "mllm": WithLlm(Asking.pivots),
    "mixed": WithLlm(_mixed),
    "replay": WithoutLlm(_replay, replays=True),
}


@dataclass(frozen=True, kw_only=True)
class PivotOptions:
    """Who picks the pivots of sentences."""

    selector: Annotated[
        str, typer.Option(rich_help_panel=DECIDES, show_default=False, help=listed(PIVOT_SELECTORS))
    ] = "grounding"
    pivots: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=DECIDES, help="What --selector replay reads."),
    ] = None
    ground_anew: GroundAnew = False

    def choose(self, llm: LlmOptions) -> Choice[PivotOptions, PivotSelector]:
        """The selector.

        Raises:
            InputError: the options do not fit together.
        """
        (choice,) = choose(PIVOT_SELECTORS, [self.selector], llm)
        if choice.replays != (self.pivots is not None):
            raise InputError("--selector replay and --pivots FILE go together.", mend="give both, or neither.")
        if self.ground_anew and not choice.replays:
            raise InputError("--ground-anew is an option of --selector replay.", mend="leave it out.")
        return choice


@dataclass(frozen=True, kw_only=True)
class PivotLlmOptions(LlmOptions):
    """The options that make sense with an LLM that is asked about sentences."""

    ask_short: Annotated[
        bool,
        typer.Option(
            "--ask-short",
            rich_help_panel=LLM,
            help="Ask the LLM about an image or a clip of up to 10 frames too; officially not.",
        ),
    ] = False


# What sounds


SoundSelectorMaker: TypeAlias = Callable[["Pipeline", "AvsSettings"], "SoundSelector | None"]
"""Gives None for the selector that the pipeline has by itself."""


def _sound_mllm(asking: Asking) -> SoundSelectorMaker:
    return lambda pipeline, settings: asking.sounds(settings)


def _sound_mixed(asking: Asking) -> SoundSelectorMaker:
    return lambda pipeline, settings: asking.sounds(settings, pipeline.sound_selector(settings))


def _sound_replay(options: SoundOptions) -> SoundSelectorMaker:
    from alref_edge.pipeline import ReplaySoundSelector

    if options.setting is None:
        raise InputError("Answers are of a setting.", mend="name it: --setting s4, ms3, avss or v2_binary")
    assert options.answers is not None
    assert options.clip is not None
    replayed = ReplaySoundSelector.from_folder(
        options.answers, options.setting, options.clip, options.segments, ground_anew=options.ground_anew
    )
    return lambda pipeline, settings: replayed


SOUND_SELECTORS: dict[str, Choice[SoundOptions, SoundSelectorMaker]] = {
    "grounding": WithoutLlm(lambda _: lambda pipeline, settings: None),
    "mllm": WithLlm(_sound_mllm),
    "mixed": WithLlm(_sound_mixed),
    "replay": WithoutLlm(_sound_replay, replays=True),
}


@dataclass(frozen=True, kw_only=True)
class SoundOptions:
    """Who decides what sounds, and with which numbers."""

    selector: Annotated[
        str, typer.Option(rich_help_panel=DECIDES, show_default=False, help=listed(SOUND_SELECTORS))
    ] = "grounding"
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=DECIDES, help="What --selector replay reads: gpt_results."),
    ] = None
    segments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=RECORDED, help="With --answers: the sound's segments."),
    ] = None
    clip: Clip = None
    ground_anew: GroundAnew = False
    semantic: Annotated[bool, typer.Option("--semantic", rich_help_panel=SOUND, help="Also write maps of classes.")] = (
        False
    )
    categories: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=SOUND,
            help="What may sound, line k for class k; else --setting's or the bundle's.",
        ),
    ] = None
    silence_gate: Annotated[
        bool | None,
        typer.Option(rich_help_panel=SOUND, help="Empty masks in silent seconds; off with --setting if left out."),
    ] = None
    setting: Annotated[
        str | None, typer.Option(rich_help_panel=SOUND, help="Numbers of the paper for s4, ms3, avss or v2_binary.")
    ] = None

    def choose(self, llm: LlmOptions, *, recording: bool) -> Choice[SoundOptions, SoundSelectorMaker]:
        """The selector.

        Args:
            llm: the options of an LLM.
            recording: whether decisions are recorded under the name of the clip.

        Raises:
            InputError: the options do not fit together.
        """
        (choice,) = choose(SOUND_SELECTORS, [self.selector], llm)
        if choice.replays != (self.answers is not None):
            raise InputError("--selector replay and --answers FOLDER go together.", mend="give both, or neither.")
        if self.segments is not None and not choice.replays:
            raise InputError("--segments is an option of --answers.", mend="add --answers FOLDER, or leave it out.")
        if self.clip is not None and not (choice.replays or recording):
            raise InputError("--clip is an option of --answers and --record.", mend="add one, or leave it out.")
        if self.ground_anew and not choice.replays:
            raise InputError("--ground-anew is an option of --selector replay.", mend="leave it out.")
        return choice

    def settings(self, pipeline: Pipeline) -> AvsSettings:
        """The numbers of the method.

        Raises:
            InputError: there is no such setting, or the file of categories cannot be read.
            BundleError: the bundle's defaults make no sense.
        """
        from alref_edge.pipeline import AvsSettings, Setting

        usual = AvsSettings()
        settings = pipeline.avs_settings(usual if self.setting is None else Setting.named(self.setting).settings)
        if self.silence_gate is False or (self.silence_gate is None and self.answers is not None):
            settings = settings.changed({"silence_db": None})
        elif self.silence_gate and settings.silence_db is None:
            settings = settings.changed({"silence_db": usual.silence_db})
        if self.categories is not None:
            names = tuple(line.strip() for line in read_lines(self.categories, "name", "categories"))
            settings = settings.changed({"categories": names, "category_meanings": {}})
        if self.semantic and not settings.categories:
            raise InputError(
                "Maps of classes need the categories that there are, and the bundle names none.",
                mend="name them, one a line, with --categories FILE.",
            )
        return settings
