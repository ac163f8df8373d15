"""Options that more than one command has, each stated once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from alref_edge.cli.grouping import INPUT, LIMITS, MODEL, OUTPUT, RECORDED, RUNNING

if TYPE_CHECKING:
    from alref_edge.media import AudioLimits, Limits
    from alref_edge.pipeline import Pipeline

Debug: TypeAlias = Annotated[
    bool, typer.Option("--debug", rich_help_panel=RUNNING, help="Show the traceback of an error.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON.")]
Clean: TypeAlias = Annotated[
    bool, typer.Option("--clean", rich_help_panel=RUNNING, help="Remove what killed runs left beside the output.")
]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace an earlier result.")
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--quiet", rich_help_panel=RUNNING, help="No progress and no notices; warnings and errors all the same."
    ),
]
Verbose: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--verbose",
        rich_help_panel=RUNNING,
        help="Also say what is loaded, on which device, and when stages begin and end.",
    ),
]

VideoArgument: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="VIDEO", rich_help_panel=INPUT, help="A file, folder of frames or image."),
]
Fps: TypeAlias = Annotated[float, typer.Option(rich_help_panel=INPUT, help="Frames per second of a folder.")]
Clip: TypeAlias = Annotated[
    str | None,
    typer.Option(rich_help_panel=RECORDED, help="The clip's name among recorded ones; VIDEO's name if left out."),
]


@dataclass(frozen=True, kw_only=True)
class GeneralOptions:
    """What is said while a command works."""

    quiet: Quiet = False
    verbose: Verbose = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which networks run, and on what."""

    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=MODEL, help="Of the networks; the shipped one if left out."),
    ] = None
    device: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, float32, tf32 or float16.")] = "auto"
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", rich_help_panel=RUNNING, help="Take the CPU where the device does not work."),
    ] = False
    threads: Annotated[
        int, typer.Option(min=0, rich_help_panel=RUNNING, help="CPU threads for one operator; 0: the backend's choice.")
    ] = 0
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=4096, metavar="GIB", rich_help_panel=RUNNING, help="Of the GPU that the graphs may take."
        ),
    ] = None
    component: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=RUNNING,
            help="The one to take where a bundle has several for one part, as two detectors; may stand many times.",
        ),
    ] = None

    def pipeline(self) -> Pipeline:
        """See `Pipeline.from_bundle`."""
        from alref_edge.pipeline import Pipeline

        return Pipeline.from_bundle(
            self.bundle,
            self.device,
            precision=self.precision,
            allow_fallback=self.allow_fallback,
            threads=self.threads,
            gpu_memory=None if self.gpu_memory is None else int(self.gpu_memory * (1 << 30)),
            components=self.component or (),
        )


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """How much is read at most."""

    limit_bytes: Annotated[
        int | None, typer.Option(rich_help_panel=LIMITS, help="Largest input, and sound file, in bytes.")
    ] = None
    limit_pixels: Annotated[int | None, typer.Option(rich_help_panel=LIMITS, help="Largest frame in pixels.")] = None
    limit_frames: Annotated[int | None, typer.Option(rich_help_panel=LIMITS, help="Most frames.")] = None
    limit_seconds: Annotated[
        float | None, typer.Option(rich_help_panel=LIMITS, help="Longest video, and sound, in seconds.")
    ] = None

    def of_video(self) -> Limits:
        """Raises InputError where one is no number above 0."""
        from alref_edge.media import Limits

        both = {"bytes": self.limit_bytes, "duration_s": self.limit_seconds}
        return Limits(**_given({**both, "pixels": self.limit_pixels, "frames": self.limit_frames}))

    def of_sound(self) -> AudioLimits:
        """Raises InputError where one is no number above 0."""
        from alref_edge.media import AudioLimits

        return AudioLimits(**_given({"bytes": self.limit_bytes, "duration_s": self.limit_seconds}))


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Numbers of the tracker."""

    fill_holes: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=LIMITS,
            help="Fill holes of masks of up to so many low-resolution pixels (officially 8 or 0).",
        ),
    ] = None
    max_pivots_in_attention: Annotated[
        int | None,
        typer.Option(rich_help_panel=LIMITS, help="Attend to so many pivots only, the closest in time; 2 or more."),
    ] = None

    def changes(self) -> dict[str, Any]:
        """The settings of a method that they change."""
        return _given({"fill_hole_area": self.fill_holes, "max_pivots_in_attention": self.max_pivots_in_attention})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
