"""Numbers of the method, in one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from alref_edge.errors import InputError
from alref_edge.models.languagebind.labels import MAX_LABELS, SYNONYMS
from alref_edge.models.protocols import TrackingOptions
from alref_edge.pipeline.audio_segments import FRAME_S, AudioSegmentSettings

AnySettings = TypeVar("AnySettings", bound="TrackingSettings")
_MOST_CATEGORIES = 255


@dataclass(frozen=True)
class TrackingSettings(TrackingOptions):
    """Settings of whatever tracks objects: the tracker's options and more."""

    def _check_switch(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise InputError(f"The setting {name} is no switch.", expected="True or False", got=value)

    @classmethod
    def from_mapping(cls: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
        """Settings from names and values; see `changed`."""
        return cls().changed(values)

    def changed(self: AnySettings, values: Mapping[str, Any]) -> AnySettings:
        """These settings with other values for some names, such as a bundle's defaults.

        Raises:
            InputError: a name that is no setting, or a value out of range.
        """
        known = [field.name for field in fields(self)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError("There is no such setting.", expected=known, got=unknown, mend="leave it out.")
        return replace(self, **values)

    def cache_key(self) -> str:
        """A short hash that is the same for equal settings only."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RvosSettings(TrackingSettings):
    """Settings of referring segmentation; the defaults are those of the official code on Ref-YouTube-VOS and MeViS.

    Attributes:
        frames_per_segment: sampled frames in a segment.
        sample_step: frames from one sampled frame to the next.
        ask_short: whether a clip of up to `sample_step` frames makes a segment too, of up to `frames_per_segment`
            frames; officially it makes none, and the best box on frame 0 serves.
        box_threshold: smallest score of a box that grounding proposes.
        text_threshold: smallest score of a word that goes into a box's phrase.
        boxes_per_frame: boxes kept of a frame, by score.
        distinct_iou: of boxes that overlap by so much IoU or more, only the best is kept, so that those kept show
            different things; None: all are, as officially.
        fallback_box_threshold: box threshold on frame 0 when no segment has a pivot.
        fallback_text_threshold: text threshold there.
    """

    frames_per_segment: int = 5
    sample_step: int = 10
    ask_short: bool = False
    box_threshold: float = 0.25
    text_threshold: float = 0.2
    boxes_per_frame: int = 3
    distinct_iou: float | None = None
    fallback_box_threshold: float = 0.001
    fallback_text_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("frames_per_segment", "sample_step", "boxes_per_frame"):
            self._check(name, 1, 100_000, int)
        self._check_switch("ask_short")
        for name in ("box_threshold", "text_threshold", "fallback_box_threshold", "fallback_text_threshold"):
            self._check(name, 0, 1, (int, float))
        if self.distinct_iou is not None:
            self._check("distinct_iou", 0.01, 1, (int, float))
        super().__post_init__()


REF_DAVIS17 = RvosSettings(fallback_box_threshold=0.1)
"""Settings of the official code on Ref-DAVIS17."""


_NAMES = """
accordion airplane axe baby bassoon bell bird boat boy bus car cat cello clarinet clipper clock dog donkey drum duck
elephant emergency-car erhu flute frying-food girl goose guitar gun guzheng hair-dryer handpan harmonica harp helicopter
hen horse keyboard leopard lion man marimba missile-rocket motorcycle mower parrot piano pig pipa saw saxophone sheep
sitar sorna squirrel tabla tank tiger tractor train trombone truck trumpet tuba ukulele utv vacuum-cleaner violin wolf
woman
"""
AVSBENCH = tuple(_NAMES.split())
"""The 70 categories of AVSBench, in the order of its classes 1 to 70; class 0 is the background."""


@dataclass(frozen=True)
class AvsSettings(TrackingSettings):
    """Settings of audio-visual segmentation; the defaults are those of the official code on MS3, with a silence gate.

    Attributes:
        taggers: components of the bundle that name what is heard, in the order in which their tags are joined.
        tags_per_tagger: tags taken of each.
        tag_threshold: smallest probability of a tag; officially 0, the LLM leaves out what it does not see.
        tag_whole_clips: whether a video that is one window is tagged with the whole of its sound, of up to 60 s, as
            officially; else with that of its whole seconds.
        categories: what sounding objects may be called; number k from 1 is class k of a class map.
        category_meanings: what an LLM is told of a category whose name has other meanings.
        max_categories: sounding objects of a window at most, the first of the selector's; one on S4.
        by_second: whether sounding objects are told for each second; else all sound all the time, as on S4.
        separator: between the labels of a combination that a sound is compared with: "; " on AVSS.
        synonyms: label to the text that stands for it when a sound is compared with it.
        segment_feature, segment_hop_s, segment_threshold: see `AudioSegmentSettings`.
        silence_db: seconds whose RMS level, relative to full scale, is below it have empty masks; None: never.
        window_s: seconds that are looked at together, 1 to 60.
        box_threshold, text_threshold: as of `RvosSettings`.
        boxes_per_frame: boxes kept of a frame: so many or more are ordered by score, fewer stay in the order of the
            queries, as recorded answers count them.
    """

    taggers: tuple[str, ...] = ("beats_as20k", "beats_as2m")
    tags_per_tagger: int = 5
    tag_threshold: float = 0.0
    tag_whole_clips: bool = False
    categories: tuple[str, ...] = ()
    category_meanings: Mapping[str, str] = field(default_factory=dict)
    max_categories: int = MAX_LABELS
    by_second: bool = True
    separator: str = ", "
    synonyms: Mapping[str, str] = field(default_factory=lambda: dict(SYNONYMS))
    segment_feature: str = "features"
    segment_hop_s: float = FRAME_S
    segment_threshold: float = 0.5
    silence_db: float | None = -45.0
    window_s: int = 10
    box_threshold: float = 0.25
    text_threshold: float = 0.25
    boxes_per_frame: int = 3

    def __post_init__(self) -> None:
        for name in ("taggers", "categories"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(
                isinstance(each, str) and each.strip() for each in value
            ):
                raise InputError(f"The setting {name} is no list of names.", expected="words", got=value)
            object.__setattr__(self, name, tuple(value))
        if not self.taggers:
            raise InputError("Nothing names what is heard.", expected="a component in `taggers`", got="none")
        if len(set(self.categories)) != len(self.categories) or len(self.categories) > _MOST_CATEGORIES:
            raise InputError(
                "The categories cannot be told apart in a class map.",
                expected=f"at most {_MOST_CATEGORIES}, each once",
                got=f"{len(self.categories)}, {len(set(self.categories))} different",
            )
        for name in ("synonyms", "category_meanings"):
            words = getattr(self, name)
            if not isinstance(words, Mapping) or not all(
                isinstance(each, str) for pair in words.items() for each in pair
            ):
                raise InputError(f"The setting {name} is no mapping of texts.", expected="a text by label", got=words)
            object.__setattr__(self, name, dict(words))
        if not isinstance(self.separator, str) or not self.separator:
            raise InputError("The setting separator is no text.", expected='", " or "; "', got=self.separator)
        for name in ("tags_per_tagger", "boxes_per_frame"):
            self._check(name, 1, 1000, int)
        for name in ("tag_threshold", "box_threshold", "text_threshold"):
            self._check(name, 0, 1, (int, float))
        for name in ("tag_whole_clips", "by_second"):
            self._check_switch(name)
        self._check("window_s", 1, 60, int)
        self._check("segment_hop_s", 0.01, 60, (int, float))
        self._check("segment_threshold", -1, 1, (int, float))
        self._check("max_categories", 1, MAX_LABELS, int)
        if self.silence_db is not None:
            self._check("silence_db", -200, 0, (int, float))
        super().__post_init__()
        AudioSegmentSettings(self.segment_feature, self.segment_hop_s, self.segment_threshold)

    @property
    def audio_segments(self) -> AudioSegmentSettings:
        """How sound is cut."""
        return AudioSegmentSettings(self.segment_feature, self.segment_hop_s, self.segment_threshold)
