"""Pivots that were chosen before and are read from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.errors import InputError, quoted
from alref_edge.models.grounding_dino.detector import boxes_to_pixels
from alref_edge.pipeline.selectors.base import Decision, Ground, Segment
from alref_edge.types import Detections, Pivot

SCHEMA = "alref-edge.pivots/1"
RESULT_SCHEMA = "alref-edge.rvos/1"
_MEND = (
    f'write it as {{"schema": "{SCHEMA}", "sentences": [{{"text": "the dog", "pivots": [{{"frame": 20, "box": '
    "[x0, y0, x1, y1]}]}]}, box in pixels; the README has the other forms."
)
_MOST_SHOWN = 5
_MAX_BYTES = 64 << 20
RECORDED, GROUNDED = "as recorded", "grounded anew"


@dataclass(frozen=True, eq=False)
class RecordedBoxes:
    """The boxes of a frame that an LLM was shown, as official files have them under `boxes_info`.

    Attributes:
        shares_n4: float32 `[N, 4]`: centre x and y, width and height, in shares of the frame.
        scores_n: float32 `[N]`.
        phrases: N words of the sentence.
    """

    shares_n4: np.ndarray
    scores_n: np.ndarray
    phrases: tuple[str, ...]

    def on(self, image_hw3: np.ndarray) -> Detections:
        """The boxes in pixels of a frame."""
        return Detections(boxes_to_pixels(self.shares_n4, *image_hw3.shape[:2]), self.scores_n, self.phrases)


@dataclass(frozen=True)
class Answer:
    """What an LLM answered for a segment.

    Attributes:
        target_frame_id: number of the frame in the segment's strip, from 1; any other number drops the segment.
        target_object_id: number of the box among those shown, from 1; any other number drops the segment.
        boxes: those that were shown; None where they were not recorded: the frame's best by grounding.
    """

    target_frame_id: int
    target_object_id: int
    boxes: RecordedBoxes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ReplaySelector:
    """Pivots from a file: whole pivots, or the answers that were given for each segment.

    Attributes:
        pivots: whole pivots by sentence.
        answers: answers by sentence, one a segment, in order; segments beyond the last answer have no pivot.
        only: answers for whatever sentence is asked, from an official file that names none.
    """

    pivots: Mapping[str, tuple[Pivot, ...]]
    answers: Mapping[str, tuple[Answer, ...]]
    only: tuple[Answer, ...] | None = None
    name: str = "replay"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: str | Path, *, ground_anew: bool = False) -> ReplaySelector:
        """Read a file.

        Three forms are read: `alref-edge.pivots/1`, a `result.json` of `alref-edge rvos`, and the official
        `cot_two_stage.json`. In the first, every sentence has its `"text"` and either
        `"pivots": [{"frame": 20, "box": [x0, y0, x1, y1]}, ...]` (pixels; `score` and `phrase` may be added, and
        `prompt_box`, where the tracker is to be prompted with another box; no pivots at all: empty masks) or
        `"segments": [{"target_frame_id": 1..5, "target_object_id": 1..3}, ...]` (the official answers). An answer may
        have its `"boxes_info"`, the boxes among which it counts, as the official file has it.

        Args:
            path: of the file.
            ground_anew: count answers in the boxes that grounding finds now, where boxes were recorded too.

        Raises:
            InputError: the file cannot be read or is malformed.
        """
        raw = _read(Path(path))
        if "schema" not in raw and "res_list" in raw:
            answers = _answers(raw["res_list"], "res_list", ground_anew)
            sentence = raw.get("exp")
            facts = _facts(answers)
            if sentence is None:
                return cls({}, {}, answers, facts=facts)
            return cls({}, {_text(sentence, "exp"): answers}, facts=facts)
        if raw.get("schema") not in (SCHEMA, RESULT_SCHEMA):
            raise _malformed("schema", f"{SCHEMA} or {RESULT_SCHEMA}", raw.get("schema"))
        pivots: dict[str, tuple[Pivot, ...]] = {}
        answered: dict[str, tuple[Answer, ...]] = {}
        for number, entry in enumerate(_list(raw.get("sentences"), "sentences")):
            where = f"sentences[{number}]"
            entry = _object(entry, where)
            sentence = _text(entry.get("text"), f"{where}.text")
            if ("pivots" in entry) == ("segments" in entry):
                raise _malformed(where, "either pivots or segments", sorted(entry))
            if sentence in pivots or sentence in answered:
                if raw["schema"] == RESULT_SCHEMA:
                    continue
                raise _malformed(f"{where}.text", "every sentence once", sentence)
            if "pivots" in entry:
                pivots[sentence] = _pivots(entry["pivots"], f"{where}.pivots")
            else:
                answered[sentence] = _answers(entry["segments"], f"{where}.segments", ground_anew)
        return cls(pivots, answered, facts=_facts([each for answers in answered.values() for each in answers]))

    def given(self, sentence: str) -> Sequence[Pivot] | None:
        """See `PivotSelector.given`."""
        sentence = sentence.strip()
        if sentence in self.pivots:
            return self.pivots[sentence]
        if sentence not in self.answers and self.only is None:
            known = sorted({*self.pivots, *self.answers})
            more = f" or one of {len(known) - _MOST_SHOWN} more" if len(known) > _MOST_SHOWN else ""
            raise InputError(
                "The file of pivots does not have this sentence.",
                expected=(" or ".join(map(quoted, known[:_MOST_SHOWN])) or "none: it is empty") + more,
                got=quoted(sentence),
                mend="ask for one that it has in `sentences`, or add this one to it.",
            )
        return None

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        """See `PivotSelector.select`."""
        answers = self.answers.get(sentence.strip(), self.only or ())
        if segment.index >= len(answers):
            return None
        answer = answers[segment.index]
        if not 1 <= answer.target_frame_id <= len(segment.sampled):
            return None
        frame = segment.sampled[answer.target_frame_id - 1]
        found = None if answer.boxes is None else answer.boxes.on(segment.image(frame))
        return Decision(frame, answer.target_object_id - 1, found)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"The file of pivots {path} is too large.",
                expected=f"at most {_MAX_BYTES} bytes",
                mend="check the path.",
            )
        raw = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(
            f"The file of pivots {path} cannot be read.", got=error.strerror or str(error), mend="check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file of pivots {path} is not JSON.", got=str(error), mend=_MEND) from error
    return _object(raw, "the file of pivots")


def _malformed(where: str, expected: object, got: object) -> InputError:
    return InputError(
        f"The file of pivots is malformed at {where}.", expected=expected, got=f"{got!r}"[:200], mend=_MEND
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(where, "an object", value)
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed(where, "a list", value)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _malformed(where, "a sentence", value)
    return value.strip()


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _malformed(where, "a whole number", value)
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _malformed(where, "a number", value)
    return float(value)


def _pivots(value: Any, where: str) -> tuple[Pivot, ...]:
    pivots = []
    for number, entry in enumerate(_list(value, where)):
        here = f"{where}[{number}]"
        entry = _object(entry, here)
        frame = _whole(entry.get("frame"), f"{here}.frame")
        if frame < 0:
            raise _malformed(f"{here}.frame", "a frame from 0", frame)
        box = _box(entry.get("box"), f"{here}.box")
        prompt = _box(entry["prompt_box"], f"{here}.prompt_box") if "prompt_box" in entry else box
        score = _number(entry.get("score", 1.0), f"{here}.score")
        phrase = entry.get("phrase", "")
        if not isinstance(phrase, str):
            raise _malformed(f"{here}.phrase", "text", phrase)
        pivots.append(Pivot(frame, box, score, phrase, prompt))
    pivots.sort(key=lambda pivot: pivot.frame)
    for one, two in pairwise(pivots):
        if one.frame == two.frame:
            raise _malformed(where, "one pivot a frame", f"two on frame {one.frame}")
    return tuple(pivots)


def _box(value: Any, where: str) -> np.ndarray:
    """float32 `[4]`."""
    box = [_number(side, where) for side in _list(value, where)]
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise _malformed(where, "a box x0 y0 x1 y1 with x0 < x1, y0 < y1", value)
    return np.asarray(box, np.float32)


def _answers(value: Any, where: str, ground_anew: bool) -> tuple[Answer, ...]:
    answers = []
    for number, entry in enumerate(_list(value, where)):
        here = f"{where}[{number}]"
        entry = _object(entry, here)
        frame = _whole(entry.get("target_frame_id"), f"{here}.target_frame_id")
        chosen = _whole(entry.get("target_object_id", -1), f"{here}.target_object_id")
        recorded = entry.get("boxes_info")
        boxes = None if recorded is None else _boxes(_object(recorded, f"{here}.boxes_info"), f"{here}.boxes_info")
        answers.append(Answer(frame, chosen, None if ground_anew else boxes))
    return tuple(answers)


def _boxes(value: dict[str, Any], where: str) -> RecordedBoxes:
    """`{"boxes": [[cx, cy, w, h], ...], "logits": [...], "phrases": [...]}`; scores and phrases may be left out."""
    rows = [_list(row, f"{where}.boxes") for row in _list(value.get("boxes"), f"{where}.boxes")]
    scores = _list(value.get("logits", [1.0] * len(rows)), f"{where}.logits")
    phrases = _list(value.get("phrases", [""] * len(rows)), f"{where}.phrases")
    shares_n4 = np.array(
        [[_number(each, f"{where}.boxes") for each in row] for row in rows if len(row) == 4], np.float32
    )
    if not len(shares_n4) == len(rows) == len(scores) == len(phrases) or not np.isfinite(shares_n4).all():
        raise _malformed(where, "boxes of four shares of the frame, and a score and a phrase of each", value)
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise _malformed(f"{where}.phrases", "texts", phrases)
    scores_n = np.array([_number(score, f"{where}.logits") for score in scores], np.float32)
    return RecordedBoxes(shares_n4.reshape(-1, 4), scores_n, tuple(phrases))


def _facts(answers: Sequence[Answer]) -> dict[str, str]:
    """Which boxes the answers count in, for the result; nothing where no answer counts any."""
    counting = [answer for answer in answers if answer.target_frame_id > 0]
    kinds = {GROUNDED if answer.boxes is None else RECORDED for answer in counting}
    return {"boxes": " or ".join(sorted(kinds))} if kinds else {}
