"""Decisions compared with recorded ones: pivot frames, categories, boxes.

Both sides are folders in the layouts of AL-Ref-SAM 2: `<setting>/cot_stage_{1,2}_outputs.json` for what sounds, and
`<video>/stage_2/<number>/cot_two_stage.json` for sentences. Names and sentences compare without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from alref_edge.errors import InputError
from alref_edge.metrics import Estimate, clustered_mean
from alref_edge.pipeline import Answer, RecordedAnswers, ReplaySelector, Setting
from alref_edge.writing.recording import TWO_STAGE

SCHEMA = "alref-edge.agreement/1"
RVOS = "rvos"
PARTS = (*(setting.value for setting in Setting), RVOS)
"""What a folder may hold: decisions about sounds in four settings, and about sentences."""
_MEND = "give the files as the official code, or `alref-edge rvos --record`, writes them."

MEASURES = {
    "categories_precision": "categories: ours that the reference names, clip by clip",
    "categories_recall": "categories: the reference's that ours names, clip by clip",
    "categories_f1": "categories: F1, clip by clip",
    "categories_exact": "categories: clips with exactly the same",
    "kept": "segments: both have a pivot, or neither has",
    "pivot_exact": "pivot frame: the same, where both name one",
    "pivot_within_1": "pivot frame: at most one away",
    "box": "box: the same number, where both chose",
    "box_same_frame": "box: the same number, on the same pivot frame",
}
"""Shares, with what each tells a person. Boxes are numbered as they were proposed on the pivot frame: numbers on
different frames mean little, and equal ones on the same frame the same box only where the same detector proposed."""


@dataclass(frozen=True)
class Choice:
    """What was decided about a category of a clip, or about a sentence in a segment of a video.

    Attributes:
        frame: number of the pivot frame, from 1; None if none was named.
        box: number of the box on it, from 1; 0 if all were rejected; None if nobody was asked.
    """

    frame: int | None
    box: int | None

    @property
    def kept(self) -> bool:
        """Whether it gives a pivot, where a box can be rejected."""
        return self.frame is not None and self.box != 0


Decisions: TypeAlias = Mapping[str, Mapping[Any, Choice]]
"""By clip or video; within it by category, or by sentence and number of the segment."""


@dataclass(frozen=True)
class Agreement:
    """How far the decisions of one part agree.

    Attributes:
        part: one of `PARTS`.
        clips: clips or videos that both sides have.
        only_reference, only_ours: those that one side has.
        measures: mean and interval by the names in `MEASURES`, clips drawn again; one without a sample is missing.
        samples: what each clip gave to each measure.
    """

    part: str
    clips: int
    only_reference: tuple[str, ...]
    only_ours: tuple[str, ...]
    measures: Mapping[str, Estimate]
    samples: Mapping[str, Mapping[str, list[float]]]

    @classmethod
    def of(cls, part: str, reference: Decisions, ours: Decisions) -> Agreement:
        """Compare what was decided about the clips that both sides have.

        Raises:
            InputError: there is none, or none of their sentences.
        """
        both = [clip for clip in reference if clip in ours]
        if not both:
            raise InputError(
                f"The folders have no clip of {part} in common.",
                expected=f"one of the reference's {len(reference)} clips",
                got=", ".join(list(ours)[:3]) or "none",
                mend="check that clips are named as in the dataset.",
            )
        samples = {clip: _samples(part, reference[clip], ours[clip]) for clip in both}
        clusters = {name: [samples[clip].get(name, []) for clip in both] for name in MEASURES}
        measures = {name: clustered_mean(each) for name, each in clusters.items() if any(each)}
        if not measures:
            raise InputError(
                "The folders have videos in common, but no segment of a sentence.",
                expected="the same sentences of the same videos",
                got=f"{len(both)} videos in common",
                mend="record the sentences of the reference.",
            )
        return cls(
            part=part,
            clips=len(both),
            only_reference=tuple(sorted(set(reference) - set(ours))),
            only_ours=tuple(sorted(set(ours) - set(reference))),
            measures=measures,
            samples=samples,
        )

    def to_text(self) -> str:
        """Lines for a person; intervals are of 95 %."""
        what = "videos" if self.part == RVOS else "clips"
        lines = [
            f"{self.part}: {self.clips} {what} in both, {len(self.only_reference)} in the reference alone, "
            f"{len(self.only_ours)} in ours alone",
            f"  {'':<58}{'agree, %':<24}of",
        ]
        for name, share in self.measures.items():
            cell = f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
            lines.append(f"  {MEASURES[name]:<58}{cell:<24}{share.count}")
        return "\n".join(lines)


def compare_folders(reference: str | Path, ours: str | Path, part: str | None = None) -> tuple[Agreement, ...]:
    """Compare the decisions in two folders.

    Args:
        reference: folder of the recorded decisions, such as `gpt_results`.
        ours: folder of the decisions in question, in the same layout.
        part: one of `PARTS`; None compares all that both folders hold.

    Raises:
        InputError: a folder or file is missing or malformed, or there is nothing in common.
    """
    if part is not None and part not in PARTS:
        raise InputError("There is no such setting.", expected=", ".join(PARTS), got=part, mend="choose one.")
    folders = [Path(reference), Path(ours)]
    for folder in folders:
        if not folder.is_dir():
            raise InputError("There is no such folder of decisions.", got=folder, mend="check the path.")
    held = [[each for each in PARTS if part in (None, each) and _holds(folder, each)] for folder in folders]
    both = [each for each in held[0] if each in held[1]]
    if not both:
        raise InputError(
            "The folders have no file of decisions in common.",
            expected=f"in both, <setting>/{' and '.join(RecordedAnswers.FILES)}, "
            f"or <video>/stage_2/<number>/{TWO_STAGE}",
            got=" and ".join(
                f"{', '.join(each) or 'none'} in {folder}" for each, folder in zip(held, folders, strict=True)
            ),
            mend="check the paths, and --setting; `alref-edge rvos --record DIR` writes such a folder.",
        )
    return tuple(Agreement.of(each, *(read_decisions(folder, each) for folder in folders)) for each in both)


def to_json(found: tuple[Agreement, ...], reference: str | Path, ours: str | Path) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "schema": SCHEMA,
        "reference": str(reference),
        "ours": str(ours),
        "agreements": [asdict(each) for each in found],
    }


def read_decisions(folder: str | Path, part: str) -> Decisions:
    """The decisions of one of `PARTS` in a folder.

    Raises:
        InputError: a file cannot be read or is malformed.
    """
    if part == RVOS:
        return _of_sentences(Path(folder))
    return _of_sounds(RecordedAnswers.from_folder(folder, part))


def _of_sounds(answers: RecordedAnswers) -> dict[str, dict[str, Choice]]:
    decisions = {}
    for clip, pivots in answers.pivots.items():
        names = list(pivots)[:1] if answers.setting.one_category else list(pivots)
        chosen = answers.boxes.get(clip, {})
        # Of two names that differ in case alone, the first counts.
        decisions[clip] = {
            _plain(name): Choice(pivots[name], chosen.get(None if answers.setting.one_category else name))
            for name in reversed(names)
        }
    return decisions


def _of_sentences(folder: Path) -> dict[str, dict[Any, Choice]]:
    decisions: dict[str, dict[Any, Choice]] = {}
    for path in sorted(_two_stage(folder), key=lambda path: (len(path.parent.name), path)):
        try:
            read = ReplaySelector.from_file(path)
        except InputError as error:
            raise InputError(f"{path}: {error.message}", expected=error.expected, got=error.got, mend=_MEND) from error
        found = decisions.setdefault(path.relative_to(folder).parts[0], {})
        # A file that does not name its sentence is known by its number.
        sentence, answers = next(iter(read.answers.items()), (path.parent.name, read.only or ()))
        times = len({key[1] for key in found if key[0] == _plain(sentence)})
        for segment, answer in enumerate(answers):
            found[_plain(sentence), times, segment] = _choice(answer)
    return decisions


def _choice(answer: Answer) -> Choice:
    if answer.target_frame_id < 1:
        return Choice(None, None)
    return Choice(answer.target_frame_id, max(answer.target_object_id, 0))


def _samples(part: str, reference: Mapping[Any, Choice], ours: Mapping[Any, Choice]) -> dict[str, list[float]]:
    """What one clip gives to each measure."""
    pairs = [(each, ours[key]) for key, each in reference.items() if key in ours]
    frames = [(one.frame, two.frame) for one, two in pairs if one.frame is not None and two.frame is not None]
    boxes = [(one, two) for one, two in pairs if one.box is not None and two.box is not None]
    samples: dict[str, list[bool]] = {
        "pivot_exact": [one == two for one, two in frames],
        "pivot_within_1": [abs(one - two) <= 1 for one, two in frames],
        "box": [one.box == two.box for one, two in boxes],
        "box_same_frame": [one.box == two.box for one, two in boxes if one.frame == two.frame],
    }
    if part == RVOS:
        samples["kept"] = [one.kept == two.kept for one, two in pairs]
        return {name: [float(each) for each in values] for name, values in samples.items()}
    shares = {
        "categories_precision": [len(pairs) / len(ours)] if ours else [],
        "categories_recall": [len(pairs) / len(reference)] if reference else [],
        "categories_f1": [2 * len(pairs) / (len(ours) + len(reference)) if ours or reference else 1.0],
        "categories_exact": [float(set(reference) == set(ours))],
    }
    return shares | {name: [float(each) for each in values] for name, values in samples.items()}


def _holds(folder: Path, part: str) -> bool:
    if part == RVOS:
        return next(_two_stage(folder), None) is not None
    return any((folder / part / name).is_file() for name in RecordedAnswers.FILES)


def _two_stage(folder: Path) -> Iterator[Path]:
    return folder.glob(f"*/stage_2/*/{TWO_STAGE}")


def _plain(name: str) -> str:
    return name.strip().casefold()
