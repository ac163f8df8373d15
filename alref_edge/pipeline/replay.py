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
from alref_edge.pipeline.pivots import Decision, Ground, Segment
from alref_edge.types import Pivot

SCHEMA = "alref-edge.pivots/1"
RESULT_SCHEMA = "alref-edge.rvos/1"
_MEND = f'write it as {{"schema": "{SCHEMA}", "sentences": [{{"text": "...", "pivots": [...]}}]}}, see the README.'
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Answer:
    """What an LLM answered for a segment.

    Attributes:
        target_frame_id: number of the frame in the segment's strip, from 1; any other number drops the segment.
        target_object_id: number of the box among the frame's best, from 1; any other number drops the segment.
    """

    target_frame_id: int
    target_object_id: int


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
    def from_file(cls, path: str | Path) -> ReplaySelector:
        """Read a file.

        Three forms are read: `alref-edge.pivots/1`, a `result.json` of `alref-edge run`, and the official
        `cot_two_stage.json`. In the first, every sentence has its `"text"` and either
        `"pivots": [{"frame": 20, "box": [x0, y0, x1, y1]}, ...]` (pixels; `score` and `phrase` may be added, and
        `prompt_box`, where the tracker is to be prompted with another box; no pivots at all: empty masks) or
        `"segments": [{"target_frame_id": 1..5, "target_object_id": 1..3}, ...]` (the official answers).

        Raises:
            InputError: the file cannot be read or is malformed.
        """
        raw = _read(Path(path))
        if "schema" not in raw and "res_list" in raw:
            answers = _answers(raw["res_list"], "res_list")
            sentence = raw.get("exp")
            return cls({}, {_text(sentence, "exp"): answers}) if sentence is not None else cls({}, {}, answers)
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
                answered[sentence] = _answers(entry["segments"], f"{where}.segments")
        return cls(pivots, answered)

    def given(self, sentence: str) -> Sequence[Pivot] | None:
        """See `PivotSelector.given`."""
        sentence = sentence.strip()
        if sentence in self.pivots:
            return self.pivots[sentence]
        if sentence not in self.answers and self.only is None:
            raise InputError(
                "The file of pivots does not have this sentence.",
                expected=sorted({*self.pivots, *self.answers}),
                got=quoted(sentence),
                mend="ask for one of these with --text, or add it to the file.",
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
        return Decision(segment.sampled[answer.target_frame_id - 1], answer.target_object_id - 1)


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


def _answers(value: Any, where: str) -> tuple[Answer, ...]:
    answers = []
    for number, entry in enumerate(_list(value, where)):
        here = f"{where}[{number}]"
        entry = _object(entry, here)
        frame = _whole(entry.get("target_frame_id"), f"{here}.target_frame_id")
        answers.append(Answer(frame, _whole(entry.get("target_object_id", -1), f"{here}.target_object_id")))
    return tuple(answers)
