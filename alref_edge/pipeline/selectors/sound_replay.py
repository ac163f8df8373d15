"""Recorded answers of the LLM that drive audio-visual segmentation: which objects may sound, and which box is the one.

AL-Ref-SAM 2 published GPT-4's answers for S4, MS3, AVSS and V2-Binary (`gpt_results/<setting>/cot_stage_1_outputs.json`
and `cot_stage_2_outputs.json`). The first stage's file maps a clip to the text of a Python dictionary,
`"{'violin': 1, 'piano': 2}"`: categories, each with its pivot frame, counted from 1. The second stage's maps it to the
number of a box, counted from 1, by category; in S4, which has one category, to the number alone. The files are read as
`avs/*/gdino.py` and `avs/*/sam2.py` read them, with the same fall-backs. The boxes themselves were not published; where
`gdino_outputs.json`, which the official code writes, lies beside the two, its boxes are those that numbers count in.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.grounding_dino.detector import boxes_to_pixels
from alref_edge.pipeline.audio_segments import AudioSegment, read_audio_segments
from alref_edge.pipeline.selectors.base import GroundSound, SoundingCategory, SoundWindow
from alref_edge.pipeline.selectors.replay import GROUNDED, RECORDED
from alref_edge.pipeline.settings import AVSBENCH, AvsSettings
from alref_edge.types import Detections

STAGE_1, STAGE_2 = "cot_stage_1_outputs.json", "cot_stage_2_outputs.json"
GROUNDING = "gdino_outputs.json"
_MAX_BYTES = 64 << 20
_MAX_ANSWER = 10_000
_MEND = "give the files as AL-Ref-SAM 2 publishes them under avs/gpt_results."


class Setting(Enum):
    """The four settings of AVSBench; values are the names of their folders."""

    S4 = "s4"
    MS3 = "ms3"
    AVSS = "avss"
    V2_BINARY = "v2_binary"

    @property
    def one_category(self) -> bool:
        """Whether a clip has a single sounding object."""
        return self is Setting.S4

    @property
    def clip_seconds(self) -> tuple[int, ...]:
        """How long its clips may be."""
        return {Setting.V2_BINARY: (10,), Setting.AVSS: (5, 10)}.get(self, (5,))

    @classmethod
    def named(cls, name: Setting | str) -> Setting:
        """The setting of that name.

        Raises:
            InputError: there is none.
        """
        try:
            return cls(name)
        except ValueError as error:
            raise InputError(
                "There is no such setting of AVSBench.", expected=", ".join(each.value for each in cls), got=name
            ) from error

    @property
    def settings(self) -> AvsSettings:
        """The numbers of the official code, which asks for the 70 categories everywhere; no second is silent to it."""
        common = AvsSettings(
            categories=AVSBENCH,
            category_meanings={"keyboard": "a typing keyboard, not a musical one"},
            tag_whole_clips=True,
            silence_db=None,
        )
        if self is Setting.S4:
            return common.changed({"taggers": ("beats_as2m",), "max_categories": 1, "by_second": False})
        return common.changed({"separator": "; " if self is Setting.AVSS else ", "})


class Reason(Enum):
    """Why a box is the one."""

    ONLY = "the only box"
    ANSWERED = "as answered"
    OUT_OF_RANGE = "the first, since the answer names none of the boxes"
    NOT_ANSWERED = "the first, since no answer was recorded"


@dataclass(frozen=True)
class BoxChoice:
    """The box of the object that sounds.

    Attributes:
        index: of the box among those proposed, from 0.
        reason: why.
    """

    index: int
    reason: Reason


@dataclass(frozen=True)
class RecordedAnswers:
    """Both stages' answers of one setting.

    Attributes:
        setting: which.
        pivots: first stage: by clip, the answered frame number of each category, in the order of the answer.
        boxes: second stage: by clip, the answered box number of each category; in S4 of `None`, which is any.
        shown: by clip and category, the number of the frame that boxes were recorded on, and those: float32 `[N, 4]`,
            centre, width and height in shares of the frame; none where they were not recorded.
    """

    FILES: ClassVar[tuple[str, str]] = (STAGE_1, STAGE_2)
    """What the files of the two stages are called."""

    setting: Setting
    pivots: Mapping[str, Mapping[str, int]]
    boxes: Mapping[str, Mapping[str | None, int]]
    shown: Mapping[str, Mapping[str, tuple[int, np.ndarray]]] = field(default_factory=dict, compare=False)

    @classmethod
    def from_files(
        cls, setting: Setting | str, stage_1: str | Path, stage_2: str | Path, grounding: str | Path | None = None
    ) -> RecordedAnswers:
        """Read the files.

        Args:
            setting: of AVSBench.
            stage_1, stage_2: the answers.
            grounding: the boxes that were shown; None: they are not known.

        Raises:
            InputError: a file cannot be read or an answer is malformed, or the second stage answers for a clip or
                category that the first does not have.
        """
        setting = Setting.named(setting)
        first, second = Path(stage_1), Path(stage_2)
        pivots = {clip: _pivots(value, f"{first}, clip {clip!r}") for clip, value in _read(first).items()}
        boxes = {clip: _boxes(setting, value, f"{second}, clip {clip!r}") for clip, value in _read(second).items()}
        for clip, chosen in boxes.items():
            for category in chosen:
                known = clip in pivots and (category is None or category in pivots[clip])
                if not known:
                    raise _malformed(
                        f"{second}, clip {clip!r}", "clips and categories of the first stage", category or clip
                    )
        shown = {} if grounding is None else _read(Path(grounding))
        return cls(
            setting, pivots, boxes, {clip: _shown(each, f"{grounding}, clip {clip!r}") for clip, each in shown.items()}
        )

    @classmethod
    def from_folder(cls, folder: str | Path, setting: Setting | str, *, ground_anew: bool = False) -> RecordedAnswers:
        """Read the files of a setting from a folder such as `gpt_results`; errors as of `from_files`.

        Args:
            folder, setting: which.
            ground_anew: leave recorded boxes aside: answers count in those that grounding finds now.
        """
        here = Path(folder) / Setting.named(setting).value
        grounding = None if ground_anew or not (here / GROUNDING).exists() else here / GROUNDING
        return cls.from_files(setting, here / STAGE_1, here / STAGE_2, grounding)

    def categories(self, clip: str, frames: int) -> tuple[SoundingCategory, ...]:
        """What may sound in a clip, in the order of the answer; in S4 the first alone. None at all is an answer too.

        Args:
            clip: its name in the dataset.
            frames: frames that the LLM saw: 10 on clips of V2, else 5. A pivot beyond them becomes the first.

        Raises:
            InputError: no answer was recorded for the clip.
        """
        if frames < 1:
            raise InputError("A clip has frames.", expected="1 or more", got=frames)
        if clip not in self.pivots:
            raise InputError(
                f"No answer was recorded for the clip {clip!r}.",
                expected=f"one of the {len(self.pivots)} clips of {self.setting.value}",
                got=clip,
                mend="check the setting and the clip's name.",
            )
        found = tuple(
            SoundingCategory(name, number if 1 <= number <= frames else 1, 1 <= number <= frames)
            for name, number in self.pivots[clip].items()
        )
        return found[:1] if self.setting.one_category else found

    def box(self, clip: str, category: str, proposed: int) -> BoxChoice | None:
        """Which of the boxes proposed on the pivot frame is the one that sounds; None if there is none.

        The LLM was asked only where there were two or more, and it cannot reject them all.

        Args:
            clip: its name in the dataset.
            category: one of `categories`.
            proposed: number of boxes.
        """
        if proposed < 2:
            return BoxChoice(0, Reason.ONLY) if proposed == 1 else None
        answers = self.boxes.get(clip, {})
        number = answers.get(None if self.setting.one_category else category)
        if number is None:
            return BoxChoice(0, Reason.NOT_ANSWERED)
        return BoxChoice(number - 1, Reason.ANSWERED) if 1 <= number <= proposed else BoxChoice(0, Reason.OUT_OF_RANGE)


@dataclass(frozen=True)
class ReplaySoundSelector:
    """The recorded answers for one clip, as a `SoundSelector`.

    Attributes:
        answers: of a setting.
        clip: name of the clip in them.
        recorded: the segments of its sound; None if they are to be found.
    """

    answers: RecordedAnswers
    clip: str
    recorded: tuple[AudioSegment, ...] | None = None
    name: str = "replay"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        setting: Setting | str,
        clip: str,
        segments: str | Path | None = None,
        *,
        ground_anew: bool = False,
    ) -> ReplaySoundSelector:
        """Read the answers of a setting and choose a clip.

        Args:
            folder: such as `gpt_results`.
            setting: of AVSBench.
            clip: its name.
            segments: a file such as `audio_segment/ms3_audio_segment.json`.
            ground_anew: see `RecordedAnswers.from_folder`.

        Raises:
            InputError: a file cannot be read or is malformed, or does not have the clip.
        """
        answers = RecordedAnswers.from_folder(folder, setting, ground_anew=ground_anew)
        answers.categories(clip, 1)
        facts = {"boxes": RECORDED if answers.shown.get(clip) else GROUNDED}
        if segments is None:
            return cls(answers, clip, facts=facts)
        recorded = read_audio_segments(segments)
        if clip not in recorded:
            raise InputError(
                f"The file of segments {segments} does not have the clip {clip!r}.",
                expected=f"one of its {len(recorded)} clips",
                got=clip,
                mend="check the setting and the clip's name.",
            )
        return cls(answers, clip, recorded[clip], facts=facts)

    def categories(self, window: SoundWindow, ground: GroundSound) -> tuple[SoundingCategory, ...]:
        """See `SoundSelector.categories`.

        Raises:
            InputError: the video is not as long as the clip of the answers.
        """
        lengths = self.answers.setting.clip_seconds
        if window.index or window.seconds not in lengths:
            raise InputError(
                "The video is not as long as the clips that the answers were recorded for.",
                expected=f"{' or '.join(map(str, lengths))} s in {self.answers.setting.value}",
                got=f"a window of {window.seconds} s from {window.start_s} s on",
                mend="cut the video, or give the frame rate of the folder with --fps 1.",
            )
        return tuple(self._shown(window, each) for each in self.answers.categories(self.clip, window.seconds))

    def _shown(self, window: SoundWindow, category: SoundingCategory) -> SoundingCategory:
        """The category with the boxes that were recorded of it, if any were."""
        number, shares_n4 = self.answers.shown.get(self.clip, {}).get(category.name, (None, None))
        if shares_n4 is None:
            return category
        if number != category.pivot:
            raise InputError(
                f"The recorded boxes of {category.name!r} are of another frame than the answer.",
                expected=f"frame {category.pivot}, as answered",
                got=f"frame {number} in {GROUNDING}",
                mend="give files of one run, or find the boxes anew with --ground-anew.",
            )
        height, width = window.images[window.frames[category.second]].shape[:2]
        count = len(shares_n4)
        boxes_n4 = boxes_to_pixels(shares_n4, height, width)
        return replace(category, found=Detections(boxes_n4, np.ones(count, np.float32), (category.name,) * count))

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """See `SoundSelector.box`."""
        choice = self.answers.box(self.clip, category.name, len(found))
        return 0 if choice is None else choice.index

    def audio_segments(self, window: SoundWindow) -> tuple[AudioSegment, ...] | None:
        """See `SoundSelector.audio_segments`."""
        return self.recorded


def parse_categories(answer: str) -> dict[str, int]:
    """Frame number by category of one recorded answer of the first stage, such as `{'violin': 1, 'piano': 2}`.

    Raises:
        ValueError: it is not the text of such a dictionary.
    """
    if len(answer) > _MAX_ANSWER:
        raise ValueError("longer than any answer")
    try:
        value = ast.literal_eval(answer)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(value, dict):
        raise ValueError("not a dictionary")
    for name, number in value.items():
        if not isinstance(name, str) or not name.strip() or type(number) is not int:
            raise ValueError(f"not a category with a frame number: {name!r}: {number!r}")
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"The file of answers {path} is too large.", expected=f"at most {_MAX_BYTES} bytes")
        raw = json.loads(path.read_bytes().decode(), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(
            f"The file of answers {path} cannot be read.", got=error.strerror or str(error), mend="check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file of answers {path} is not JSON.", got=str(error), mend=_MEND) from error
    if not isinstance(raw, dict):
        raise _malformed(path, "an object of clips", raw)
    return raw


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is there twice")
    return values


def _pivots(value: Any, where: str) -> dict[str, int]:
    if not isinstance(value, str):
        raise _malformed(where, "the text of a dictionary", value)
    try:
        return parse_categories(value)
    except ValueError as error:
        raise _malformed(where, "categories with frame numbers, such as {'violin': 1}", value) from error


def _boxes(setting: Setting, value: Any, where: str) -> dict[str | None, int]:
    if setting.one_category:
        return {None: _number(value, where)}
    if not isinstance(value, dict):
        raise _malformed(where, "an object of categories", value)
    return {category: _number(each, f"{where}, {category!r}") for category, each in value.items()}


def _shown(value: Any, where: str) -> dict[str, tuple[int, np.ndarray]]:
    if not isinstance(value, dict):
        raise _malformed(where, "an object of categories", value)
    shown = {}
    for category, each in value.items():
        here = f"{where}, {category!r}"
        try:
            number, shares_n4 = each["keyframe"], np.array(each["bboxes"], np.float32).reshape(-1, 4)
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(here, "a `keyframe` and `bboxes` of four shares of the frame", each) from error
        if type(number) is not int or number < 1 or not np.isfinite(shares_n4).all():
            raise _malformed(here, "a `keyframe` from 1 and finite `bboxes`", each)
        shown[category] = (number, shares_n4)
    return shown


def _number(value: Any, where: str) -> int:
    digits = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not digits.removeprefix("-").isdecimal() or len(digits) > 9:
        raise _malformed(where, "the number of a box", value)
    return int(digits)


def _malformed(where: object, expected: str, got: object) -> InputError:
    return InputError(
        f"The file of answers is malformed: {where}.", expected=expected, got=f"{got!r}"[:200], mend=_MEND
    )
