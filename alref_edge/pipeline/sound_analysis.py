"""What the networks hear in a window of time: tags by BEATs, segments by YAMNet, labels by LanguageBind."""

from __future__ import annotations

from collections.abc import Sequence

from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.models.beats import LONGEST_S, union_of_tags
from alref_edge.pipeline.audio_segments import AudioSegment, segment_audio
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.settings import AvsSettings
from alref_edge.pipeline.sound import Sound
from alref_edge.types import Tag

_SHORTEST_SEGMENT = SAMPLE_RATE * 25 // 1000


class SoundAnalysis:
    """One window's sound. Threads may ask at once; they are served in turn.

    Args:
        networks: the taggers, YAMNet and LanguageBind are taken from them when somebody asks, not before.
        sound: of the whole video.
        part: the window's samples of it.
        alone: whether the video is this one window.
        settings: numbers of the method.
        stats: counts and times.

    Attributes:
        wave: the window's sound, float32 `[samples]` at 16 kHz.
        tags: what `tag_sounds` gave; None where nobody asked.
    """

    def __init__(
        self, networks: Networks, sound: Sound, part: slice, alone: bool, settings: AvsSettings, stats: RunStats
    ) -> None:
        self.wave = sound.wave_16khz[part]
        # A clip of a dataset is tagged with all of its sound, what goes beyond its last whole second too.
        whole = alone and settings.tag_whole_clips and len(sound.wave_16khz) <= LONGEST_S * SAMPLE_RATE
        self._tagged = sound.wave_16khz if whole else self.wave
        self._sound, self._part = sound, part
        self.tags: tuple[Tag, ...] | None = None
        self._networks, self._settings, self._stats = networks, settings, stats

    def tag_sounds(self) -> tuple[Tag, ...]:
        """The tags of all taggers together; remembered."""
        with self._networks.lock:
            if self.tags is None:
                self.tags = self._tag_sounds()
            return self.tags

    def _tag_sounds(self) -> tuple[Tag, ...]:
        taggings = []
        for name in self._settings.taggers:
            with self._stats.stage("load"):
                tagger = self._networks.tagger(name)
            if len(self._tagged) >= tagger.shortest:
                with self._stats.stage("listen"):
                    taggings.append(tagger.tag(self._tagged, min(self._settings.tags_per_tagger, len(tagger.labels))))
        return union_of_tags(*taggings)

    def audio_segments(self) -> tuple[AudioSegment, ...]:
        """The segments of the sound, by YAMNet."""
        with self._networks.lock, self._stats.stage("load"):
            embedder = self._networks.sound_embedder
        with self._networks.lock, self._stats.stage("listen"):
            return segment_audio(self.wave, embedder, self._settings.audio_segments)

    def labels_by_second(
        self, names: Sequence[str], segments: Sequence[AudioSegment], seconds: int
    ) -> list[tuple[str, ...]]:
        """Which of the names sound in each second, by LanguageBind; the last answer repeats to the end."""
        audible = [each for each in segments if len(each.of(self.wave)) >= _SHORTEST_SEGMENT]
        if not audible:
            return [()] * seconds
        with self._networks.lock, self._stats.stage("load"):
            matcher = self._networks.sound_text_matcher
        with self._networks.lock, self._stats.stage("decode"):
            wave = self._sound.language_16khz[self._part]
        with self._networks.lock, self._stats.stage("listen"):
            sounding = matcher.sounding(
                [each.of(wave) for each in audible],
                names,
                separator=self._settings.separator,
                synonyms=self._settings.synonyms,
            )
        labels = [label for each, label in zip(audible, sounding, strict=True) for _ in range(each.start_s, each.end_s)]
        return [*labels, *labels[-1:] * (seconds - len(labels))][:seconds]
