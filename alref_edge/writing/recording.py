"""Decisions of finished runs, written in the layouts that recorded answers are read from.

Of clips with sound: `DIR/<setting>/cot_stage_{1,2}_outputs.json`, as `RecordedAnswers` reads them. Of sentences:
`DIR/<video>/stage_2/<number>/cot_two_stage.json`, as `ReplaySelector` reads it. Both are those of AL-Ref-SAM 2, so a
record can be replayed, and compared with published answers. Those of sentences hold the boxes that they count in. One
run at a time may write to a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from alref_edge.errors import InputError
from alref_edge.files import unwritable, written_beside
from alref_edge.pipeline import (
    Answer,
    AvsRun,
    RecordedAnswers,
    RecordedBoxes,
    ReplaySelector,
    RunReport,
    RvosResult,
    RvosSettings,
    Setting,
    cut_into_segments,
)
from alref_edge.types import Detections

TWO_STAGE = "cot_two_stage.json"
NO_ANSWER = -1
"""What stands for a frame that was not named, and for a box where all were rejected, as in the official files."""


def open_record(folder: str | Path, clip: str) -> None:
    """Make the folder, if it is not there: before a run, so that nothing is done in vain.

    Args:
        folder, clip: see `record_decisions`.

    Raises:
        InputError, CapacityError: the clip's name is no file name, or the folder cannot be made.
    """
    _check_name(clip)
    _make_folder(Path(folder))


def record_decisions(
    folder: str | Path, setting: Setting | str | None, clip: str, results: AvsRun | Sequence[RvosResult]
) -> None:
    """Add the decisions of a run to a folder; what it holds of the same clip or sentence already is replaced.

    Args:
        folder: where; made if it is not there.
        setting: of AVSBench, for what sounds; None for sentences.
        clip: name of the clip or video in its dataset.
        results: what `Pipeline.avs` gave for a clip that is one window, or `Pipeline.rvos` for some sentences.

    Raises:
        InputError: the run holds no decisions of that kind, or the folder cannot be read or written.
        CapacityError: the disk is full.
    """
    _check_name(clip)
    if isinstance(results, AvsRun) != (setting is not None):
        raise InputError(
            "Decisions about sounds are of a setting, those about sentences are not.",
            expected=", ".join(each.value for each in Setting) if setting is None else "no setting",
            got=setting,
            mend="name the setting for sounds (`alref-edge avs`), and only then.",
        )
    if isinstance(results, AvsRun):
        _record_sounds(Path(folder), Setting.named(setting or ""), clip, results)
    else:
        _record_sentences(Path(folder) / clip / "stage_2", results)


def sound_decisions(run: AvsRun) -> tuple[dict[str, int], dict[str, int]]:
    """What was decided about a clip.

    Returns:
        The number of the pivot frame of each category, in the order of the answer, and the number of the box of those
        for which more than one was proposed; both count from 1.

    Raises:
        InputError: the run is not of one window.
    """
    if len(run.windows) != 1:
        raise InputError(
            "A recorded clip is one window of the run.",
            expected="1 window",
            got=f"{len(run.windows)} windows",
            mend="record clips of at most `window_s` seconds.",
        )
    (window,) = run.windows
    pivots = {each.name: 1 + int(run.second_of_frame[each.frame]) - window.start_s for each in window.objects}
    boxes = {each.name: 1 + each.box for each in window.objects if each.pivot is not None and len(each.considered) > 1}
    return pivots, boxes


def sentence_decisions(result: RvosResult) -> list[Answer]:
    """What was decided about each segment of a video for a sentence.

    Raises:
        InputError: the pivots were given beforehand, so that nobody chose them.
    """
    if result.pivots and not result.decisions and not result.fell_back:
        raise InputError(
            f"The pivots of {result.sentence!r} were given: there is no decision to record.",
            mend="record a run whose selector chooses.",
        )
    answers = []
    for span in cut_into_segments(result.frame_count, cast(RvosSettings, result.run.settings)):
        decision = result.decisions.get(span.index)
        if decision is not None:
            box = NO_ANSWER if decision.box is None else 1 + decision.box
            shown = result.considered.get(decision.frame)
            boxes = None if shown is None else _recorded(shown, result.run)
            answers.append(Answer(1 + span.sampled.index(decision.frame), box, boxes))
        elif span.is_segment:
            answers.append(Answer(NO_ANSWER, NO_ANSWER))
    return answers


def _record_sounds(folder: Path, setting: Setting, clip: str, run: AvsRun) -> None:
    pivots, boxes = sound_decisions(run)
    here = folder / setting.value
    first, second = (here / name for name in RecordedAnswers.FILES)
    known = RecordedAnswers(setting, {}, {})
    if first.exists() or second.exists():
        known = RecordedAnswers.from_files(setting, first, second)
    others = {name: _second(each) for name, each in known.boxes.items() if name != clip}
    # S4 asks for one box, without its category.
    names = [None] if setting.one_category else boxes
    chosen = _second(dict(zip(names, boxes.values(), strict=False)))
    _make_folder(here)
    # The second file may name only what the first has, even if this is interrupted.
    _write(second, others)
    _write(first, {name: repr(dict(each)) for name, each in {**known.pivots, clip: pivots}.items()})
    if chosen:
        _write(second, {**others, clip: chosen})


def _recorded(found: Detections, run: RunReport) -> RecordedBoxes:
    """Boxes in shares of the frame."""
    low_n2, high_n2 = np.split(found.boxes_n4.astype(np.float64), 2, axis=1)
    shares_n4 = np.concatenate([(low_n2 + high_n2) / 2, high_n2 - low_n2], axis=1)
    return RecordedBoxes(shares_n4 / ([run.info.width, run.info.height] * 2), found.scores_n, found.phrases)


def _second(boxes: Mapping[str | None, int]) -> str | dict[str, str]:
    """A clip's numbers of boxes as the second stage's file has them: by category, or the number alone."""
    texts = {name: str(number) for name, number in boxes.items()}
    return texts[None] if None in texts else {str(name): text for name, text in texts.items()}


def _record_sentences(folder: Path, results: Sequence[RvosResult]) -> None:
    answers = [sentence_decisions(result) for result in results]
    there = sorted(int(path.parent.name) for path in folder.glob(f"*/{TWO_STAGE}") if path.parent.name.isdecimal())
    known = {number: next(iter(ReplaySelector.from_file(_path(folder, number)).answers), "") for number in there}
    for result, each in zip(results, answers, strict=True):
        same = [number for number, sentence in known.items() if sentence == result.sentence]
        number = same[0] if same else result.index if result.index not in there else max(there) + 1
        known.pop(number, None)
        there = sorted({*there, number})
        _make_folder(_path(folder, number).parent)
        segments = [_segment(answer) for answer in each]
        _write(_path(folder, number), {"exp_id": number, "exp": result.sentence, "res_list": segments})


def _segment(answer: Answer) -> dict[str, Any]:
    """An answer as the official `cot_two_stage.json` has it."""
    segment: dict[str, Any] = {
        "target_frame_id": answer.target_frame_id,
        "target_object_id": answer.target_object_id,
    }
    if answer.boxes is not None:
        boxes, scores = answer.boxes.shares_n4.tolist(), answer.boxes.scores_n.tolist()
        segment["boxes_info"] = {"logits": scores, "boxes": boxes, "phrases": list(answer.boxes.phrases)}
    return segment


def _path(folder: Path, number: int) -> Path:
    return folder / str(number) / TWO_STAGE


def _check_name(clip: str) -> None:
    if not clip.strip() or clip in (".", "..") or "/" in clip or "\0" in clip:
        raise InputError("A clip needs a name.", expected="a plain name, without a slash", got=repr(clip))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with written_beside(path) as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")
