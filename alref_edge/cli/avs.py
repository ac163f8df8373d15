"""`alref-edge avs`: what sounds in a video."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, announce, progress_line
from alref_edge.cli.grouping import INPUT
from alref_edge.cli.llm import LlmOptions
from alref_edge.cli.options import EngineOptions, Fps, GeneralOptions, LimitOptions, TrackingOptions, VideoArgument
from alref_edge.cli.results import ResultOptions, stem_of
from alref_edge.cli.selectors import SoundOptions, open_selectors
from alref_edge.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, avs)


def avs(
    video: VideoArgument,
    *,
    audio: Annotated[
        str | None,
        typer.Option(metavar="FILE", rich_help_panel=INPUT, help="A sound file in place of the video's own track."),
    ] = None,
    fps: Fps = 24.0,
    engine: EngineOptions,
    sound: SoundOptions,
    llm: LlmOptions,
    result: ResultOptions,
    tracking: TrackingOptions,
    limits: LimitOptions,
    general: GeneralOptions,
) -> None:
    """Segment, in a video, the objects that sound, while they do."""
    from alref_edge.media import open_video

    choice = sound.choose(llm, recording=result.record is not None)
    if result.record is not None and sound.setting is None:
        raise InputError(
            "Decisions about sounds are of a setting.", mend="name it: --setting s4, ms3, avss or v2_binary"
        )
    clip = stem_of(video) if sound.clip is None else sound.clip
    result.begin_record(clip)
    source = open_video(video, limits.of_video(), fps=fps)
    with (
        result.folder(video, semantic=sound.semantic) as folder,
        open_selectors([choice], replace(sound, clip=clip), llm) as (make_selector,),
        engine.pipeline() as pipeline,
        progress_line(quiet=general.quiet) as progress,
    ):
        announce(pipeline, general.quiet)
        settings = sound.settings(pipeline).changed(tracking.changes())
        results = pipeline.avs(
            source,
            audio,
            selector=make_selector(pipeline, settings),
            settings=settings,
            audio_limits=limits.of_sound(),
            progress=progress,
            spill_dir=folder.partial,
            sink=folder,
        )
        written = result.write(folder, results, source, progress)
    result.tell(written, folder.path, pipeline, quiet=general.quiet)
    result.end_record(clip, sound.setting, results)
