"""What `alref-edge run --audio` is told about sounds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from alref_edge.cli.console import read_lines
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import AvsSettings, Pipeline, ReplaySoundSelector


@dataclass(frozen=True, kw_only=True)
class SoundOptions:
    """The options that make sense with --audio only; see their help texts."""

    selector_name: str
    semantic: bool
    categories: Path | None
    silence_gate: bool | None
    setting: str | None
    answers: Path | None
    clip: str | None
    segments: Path | None
    ground_anew: bool

    def refuse(self) -> None:
        """Raises InputError if any of them is there."""
        given = [
            field.name.replace("_", "-")
            for field in fields(self)[1:]
            if getattr(self, field.name) is not None
            and field.name != "ground_anew"
            and (field.name != "semantic" or self.semantic)
        ]
        if given:
            raise InputError(f"--{given[0]} is an option of --audio.", mend="add --audio, or leave it out.")

    def selector(self, video: str) -> ReplaySoundSelector | None:
        """Who decides; None: tags, words and grounding.

        Raises:
            InputError: the options do not fit together, or the answers cannot be read.
        """
        from alref_edge.pipeline import ReplaySoundSelector

        if (self.selector_name == "replay") != (self.answers is not None):
            raise InputError("--selector replay and --answers FOLDER go together.", mend="give both, or neither.")
        if self.answers is None:
            if self.clip is not None or self.segments is not None:
                raise InputError("--clip and --segments are options of --answers.", mend="add --answers FOLDER.")
            return None
        if self.setting is None:
            raise InputError("Answers are of a setting.", mend="name it: --setting s4, ms3, avss or v2_binary")
        clip = Path(video).stem if self.clip is None else self.clip
        return ReplaySoundSelector.from_folder(
            self.answers, self.setting, clip, self.segments, ground_anew=self.ground_anew
        )

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
