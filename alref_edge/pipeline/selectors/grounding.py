"""Selectors without an LLM: what Grounding DINO scores best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from alref_edge.pipeline.selectors.base import Decision, Ground, GroundSound, Segment, SoundingCategory, SoundWindow
from alref_edge.types import Detections


@dataclass(frozen=True)
class GroundingSelector:
    """No LLM: of a segment's sampled frames, the box that grounding scores best (the earlier frame if equal)."""

    name: str = "grounding"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    def given(self, sentence: str) -> None:
        """Nothing is known beforehand."""

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        """See `PivotSelector.select`."""
        scores_t = [float(ground(frame).scores_n[:1].max(initial=0)) for frame in segment.sampled]
        best = scores_t.index(max(scores_t))
        return Decision(segment.sampled[best], 0) if scores_t[best] > 0 else None


@dataclass(frozen=True)
class GroundingSoundSelector:
    """No LLM: tags become the categories nearest to them in words; those that grounding sees are there.

    A category's pivot is the frame on which grounding scores it best (the earlier one if equal), and its box there the
    best.

    Attributes:
        nearest: the choice that each word is nearest to, as `LanguageBind.nearest`.
        choices: what objects may be called; tags serve as they are where there are none.
        tag_threshold: smallest probability of a tag.
    """

    nearest: Callable[[Sequence[str], Sequence[str]], list[str]] = field(repr=False)
    choices: tuple[str, ...] = ()
    tag_threshold: float = 0.0
    name: str = "grounding"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    def categories(self, window: SoundWindow, ground: GroundSound) -> list[SoundingCategory]:
        """See `SoundSelector.categories`; the most probable come first."""
        tags = [tag for tag in window.tag_sounds() if tag.probability >= self.tag_threshold]
        heard = [tag.name for tag in sorted(tags, key=lambda tag: -tag.probability)]
        names = self.nearest(heard, self.choices) if self.choices else [name.lower() for name in heard]
        found = []
        names = list(dict.fromkeys(names))
        for number, name in enumerate(names):
            best_t = []
            for second in range(window.seconds):
                best_t.append(float(ground(second, name).scores_n.max(initial=0)))
                window.report("ground", number * window.seconds + second + 1, len(names) * window.seconds)
            if max(best_t) > 0:
                found.append(SoundingCategory(name, 1 + best_t.index(max(best_t))))
        return found

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """See `SoundSelector.box`."""
        return int(found.scores_n.argmax())

    def audio_segments(self, window: SoundWindow) -> None:
        """Nothing is known beforehand."""
