"""`alref-edge run`: masks of one video."""

from __future__ import annotations

import os
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from alref_edge.cli.console import (
    EPILOG,
    AllowFallback,
    AsJson,
    BundleOption,
    Clean,
    Debug,
    Device,
    Precision,
    Quiet,
    Threads,
    Verbose,
    announce,
    echo,
    guarded,
    look_for_leftovers,
    print_json,
    progress_line,
    read_lines,
    say,
    warn,
)
from alref_edge.cli.reasoning import (
    LLM_SELECTORS,
    AllowRemote,
    AllowUnusable,
    AnswerCache,
    AskShort,
    EndpointUrl,
    InFlight,
    MaxTokens,
    ModelName,
    NoAnswerCache,
    PixelBudget,
    Reasoning,
    TemplatesFolder,
    Thinking,
    Timeout,
    TranscriptFolder,
)
from alref_edge.cli.sound_options import SoundOptions
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import AvsRun, ReplaySelector, RvosRun

_REPORT = "report.html"
_SELECTORS = ("grounding", *LLM_SELECTORS, "replay")


class _Run(TyperCommand):
    """The command, whose --audio may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click; `--audio` before another option or at the end means the video's own track."""
        bare = [arg == "--audio" and after.startswith("-") for arg, after in pairwise([*args, "-"])]
        return super().parse_args(ctx, ["--audio=" if own else arg for arg, own in zip(args, bare, strict=True)])


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=_Run, epilog=EPILOG)(run)


@guarded
def run(
    video: Annotated[str, typer.Argument(metavar="INPUT", help="A video file, a folder of frames, or an image.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="A sentence; may stand many times.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with one sentence a line.")] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]", help="After INPUT: segment what sounds, in the video's own track or in a sound file."
        ),
    ] = None,
    bundle: BundleOption = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; INPUT's name with -alref if left out.")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    selector: Annotated[str, typer.Option(help="Who decides: grounding, mllm, mixed or replay.")] = "grounding",
    pivots: Annotated[Path | None, typer.Option(help="The file that --selector replay reads, for sentences.")] = None,
    semantic: Annotated[bool, typer.Option("--semantic", help="With --audio: also write maps of classes.")] = False,
    categories: Annotated[
        Path | None,
        typer.Option(
            help="With --audio: a file of what may sound, line k for class k; else --setting's or the bundle's."
        ),
    ] = None,
    silence_gate: Annotated[
        bool | None, typer.Option(help="With --audio: empty masks in silent seconds; off with --setting if left out.")
    ] = None,
    setting: Annotated[
        str | None, typer.Option(help="With --audio: numbers of the paper for s4, ms3, avss or v2_binary.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="With --audio: the folder of answers (gpt_results) that --selector replay reads."),
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="The clip's name in --answers and --record; INPUT's name if left out.")
    ] = None,
    segments: Annotated[Path | None, typer.Option(help="With --answers: the file of the sound's segments.")] = None,
    ground_anew: Annotated[
        bool,
        typer.Option("--ground-anew", help="With --selector replay: find boxes anew where they were recorded too."),
    ] = False,
    endpoint: EndpointUrl = None,
    allow_remote: AllowRemote = False,
    llm: ModelName = None,
    templates: TemplatesFolder = None,
    llm_pixels: PixelBudget = None,
    in_flight: InFlight = 32,
    llm_timeout: Timeout = 600.0,
    llm_max_tokens: MaxTokens = 1024,
    llm_thinking: Thinking = False,
    allow_unusable: AllowUnusable = False,
    ask_short: AskShort = False,
    answer_cache: AnswerCache = None,
    no_answer_cache: NoAnswerCache = False,
    transcript: TranscriptFolder = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also note the decisions there, for `alref-edge agree`.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of a folder or an image, which have no clock.")] = 24.0,
    masks: Annotated[str, typer.Option(help="How masks are written: png, rle or none.")] = "png",
    overlay: Annotated[bool, typer.Option(help="Also write a video with the masks over the frames.")] = True,
    report: Annotated[bool, typer.Option("--report", help="Also write report.html, one page that shows it.")] = False,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    clean: Clean = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
    fill_holes: Annotated[
        int | None, typer.Option(help="Fill holes of masks of up to so many low-resolution pixels (officially 8 or 0).")
    ] = None,
    max_pivots_in_attention: Annotated[
        int | None, typer.Option(help="Attend to so many pivots only, the closest in time; 2 or more.")
    ] = None,
    limit_bytes: Annotated[int | None, typer.Option(help="Largest input, and sound file, in bytes.")] = None,
    limit_pixels: Annotated[int | None, typer.Option(help="Largest frame in pixels.")] = None,
    limit_frames: Annotated[int | None, typer.Option(help="Most frames.")] = None,
    limit_seconds: Annotated[float | None, typer.Option(help="Longest video, and sound, in seconds.")] = None,
    debug: Debug = False,
) -> None:
    """Segment what one or many sentences refer to, or with --audio what sounds."""
    from alref_edge.media import AudioLimits, Limits, open_video
    from alref_edge.pipeline import Pipeline
    from alref_edge.report import write_report
    from alref_edge.writing.recording import open_record, record_decisions
    from alref_edge.writing.result_folder import ResultFolder

    sentences = read_sentences(text or [], text_file)
    sound_options = SoundOptions(
        selector_name=selector,
        semantic=semantic,
        categories=categories,
        silence_gate=silence_gate,
        setting=setting,
        answers=answers,
        clip=clip if record is None or answers else None,
        segments=segments,
        ground_anew=ground_anew,
    )
    if ground_anew and selector != "replay":
        raise InputError("--ground-anew is an option of --selector replay.", mend="leave it out.")
    if audio is None:
        sound_options.refuse()
    elif sentences or pivots is not None:
        raise InputError("Sentences and --audio are two runs.", mend="leave out --text and --pivots, or --audio.")
    elif ask_short:
        raise InputError("--ask-short is an option of --text.", mend="leave it out: the LLM hears of every clip.")
    if audio is None and not sentences:
        raise InputError(
            "There is nothing to look for: no sentences, and no sound.",
            mend='give at least one sentence with --text "...", or --audio.',
        )
    name = Path(os.path.abspath(video)).stem if clip is None else clip
    if record is not None:
        open_record(record, name)
    caps = {"bytes": limit_bytes, "pixels": limit_pixels, "frames": limit_frames, "duration_s": limit_seconds}
    reasoning = Reasoning(
        endpoint=endpoint,
        allow_remote=allow_remote,
        llm=llm,
        templates=templates,
        llm_pixels=llm_pixels,
        in_flight=in_flight,
        llm_timeout=llm_timeout,
        llm_max_tokens=llm_max_tokens,
        llm_thinking=llm_thinking,
        allow_unusable=allow_unusable,
        answer_cache=answer_cache,
        no_answer_cache=no_answer_cache,
        transcript=transcript,
        ask_short=ask_short,
    )
    if selector not in _SELECTORS:
        raise InputError(
            "There is no such selector.", expected=" or ".join(_SELECTORS), got=selector, mend="choose one."
        )
    if selector not in LLM_SELECTORS:
        reasoning.refuse()
    if record is not None and audio is not None and setting is None:
        raise InputError(
            "Decisions about sounds are of a setting.", mend="name it: --setting s4, ms3, avss or v2_binary"
        )
    replayed = _replayed(selector, pivots, ground_anew) if audio is None else sound_options.selector(video)
    source = open_video(video, Limits(**{name: cap for name, cap in caps.items() if cap is not None}), fps=fps)  # type: ignore[arg-type]
    sound_caps = {name: cap for name, cap in caps.items() if cap is not None and name in ("bytes", "duration_s")}
    tracker = {"fill_hole_area": fill_holes, "max_pivots_in_attention": max_pivots_in_attention}
    changes = {name: value for name, value in tracker.items() if value is not None}
    out = out or Path(f"{Path(os.path.abspath(video)).stem}-alref")
    look_for_leftovers(out, clean)
    with (
        ResultFolder(
            out,
            overwrite=overwrite,
            masks=masks,
            overlay=overlay,
            extras=(_REPORT,) if report else (),
            semantic=semantic,
        ) as folder,
        reasoning.asking() if selector in LLM_SELECTORS else nullcontext() as asking,
        Pipeline.from_bundle(
            bundle, device, precision=precision, allow_fallback=allow_fallback, threads=threads
        ) as pipeline,
        progress_line(quiet=quiet) as progress,
    ):
        announce(pipeline, quiet)
        results: RvosRun | AvsRun
        if audio is None:
            settings = pipeline.settings.changed({**changes, **({"ask_short": True} if ask_short else {})})
            results = pipeline.rvos(
                source,
                sentences,
                selector=asking.selector(selector) if asking else replayed,  # type: ignore[arg-type]
                settings=settings,
                progress=progress,
                spill_dir=folder.partial,
            )
        else:
            avs_settings = sound_options.settings(pipeline).changed(changes)
            results = pipeline.avs(
                source,
                audio or None,
                selector=asking.sound_selector(selector, pipeline, avs_settings) if asking else replayed,  # type: ignore[arg-type]
                settings=avs_settings,
                audio_limits=AudioLimits(**sound_caps),  # type: ignore[arg-type]
                progress=progress,
                spill_dir=folder.partial,
            )
        written = folder.write(results, source, progress)
        if report:
            write_report(folder.partial / _REPORT, written, source, results)
    for warning in written["warnings"]:
        if warning not in pipeline.warnings:
            warn(warning)
    for note in () if quiet else written["notes"]:
        say(f"note: {note}")
    _print_run(written, folder.path, as_json)
    if record is not None:
        record_decisions(record, setting, name, results)


def read_sentences(texts: list[str], file: Path | None) -> list[str]:
    return texts if file is None else [*texts, *read_lines(file, "sentence", "sentences")]


def _replayed(name: str, pivots: Path | None, ground_anew: bool) -> ReplaySelector | None:
    from alref_edge.pipeline import ReplaySelector

    if (name == "replay") != (pivots is not None):
        raise InputError("--selector replay and --pivots FILE go together.", mend="give both, or neither.")
    return None if pivots is None else ReplaySelector.from_file(pivots, ground_anew=ground_anew)


def _print_run(record: dict[str, Any], out: Path, as_json: bool) -> None:
    """Nothing of what is printed without `--json` depends on the machine or the hour."""
    if as_json:
        print_json(record)
        return
    what = "objects" if "objects" in record else "sentences"
    entries = record[what]
    for entry in entries:
        pivots = ", ".join(f"frame {pivot['frame']} ({pivot['score']:.2f})" for pivot in entry["pivots"]) or "none"
        where = entry["masks"].get("folder") or entry["masks"].get("file") or "not written"
        sounds = f"sounds in {len(entry['seconds'])} s; " if "seconds" in entry else ""
        echo(f"{entry.get('text', entry.get('name'))}: {sounds}pivots {pivots}; masks {where}")
    echo(f"{record['input']['frames']} frames, {len(entries)} {what}: {out}")
