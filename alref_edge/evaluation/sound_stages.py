"""What each stage of audio-visual segmentation got right, given what the stages before it gave it."""

from __future__ import annotations

from collections.abc import Sequence

from alref_edge.evaluation.boxes import RIGHT_IOU, box_iou
from alref_edge.evaluation.sound_truth import SoundTruth
from alref_edge.pipeline import AvsSettings, Pipeline, SoundingObject, WindowResult


def tagged(pipeline: Pipeline, window: WindowResult, settings: AvsSettings) -> list[tuple[str, bool]]:
    """The category that each tag of a window means, the most probable first, and whether it is above the threshold."""
    tags = sorted(window.tags, key=lambda tag: -tag.probability)
    names = pipeline.networks.sound_text_matcher.nearest([tag.name for tag in tags], settings.categories)
    return [(name, tag.probability >= settings.tag_threshold) for name, tag in zip(names, tags, strict=True)]


def stages(window: WindowResult, tags: Sequence[tuple[str, bool]], truth: SoundTruth) -> dict[str, tuple[bool, ...]]:
    """One answer for each thing that a stage had to decide, by the names in `STAGES`.

    Segments and labels count where the stage was asked at all, and labels in seconds in which a category that was found
    sounds in view: elsewhere none can be right, since one is always taken.

    Args:
        window: what the pipeline found out about the one window of a clip, with the masks of no second emptied.
        tags: see `tagged`.
        truth: of the clip.
    """
    categories = list(dict.fromkeys(name for name, is_above in tags if is_above))
    found = [each.name for each in window.objects]
    right = [each for each in window.objects if each.name in truth.sounding]
    labels = truth.sound.labels if window.audio_segments else ()
    sounds = [{*label.shapes, *label.off_screen} for label in labels]
    changes = [second for second in range(1, len(sounds)) if sounds[second] != sounds[second - 1]]
    cuts = [each.start_s for each in window.audio_segments[1:]]
    wanted = [{*label.shapes} & {*found} for label in labels]
    return {
        "tag_precision": tuple(name in truth.heard for name in categories),
        "tag_recall": tuple(shape in categories for shape in sorted(truth.heard)),
        "tag_best": (bool(tags) and tags[0][0] in truth.heard,) if truth.heard else (),
        "presence_precision": tuple(name in truth.sounding for name in found),
        "presence_recall": tuple(shape in found for shape in truth.sounding),
        "box_right": tuple(_box_is_right(each, truth) for each in right),
        "cut_precision": tuple(cut in changes for cut in cuts),
        "cut_recall": tuple(change in cuts for change in changes),
        "labels_right": tuple(
            set(got) == want for got, want in zip(window.labels[: len(wanted)], wanted, strict=True) if want
        ),
    }


def _box_is_right(found: SoundingObject, truth: SoundTruth) -> bool:
    """Whether the pivot's box is that of some object of its shape."""
    true = truth.boxes(found.frame // truth.scene.fps, found.name)
    return found.pivot is not None and any(box_iou(found.pivot.prompt_xyxy, box) >= RIGHT_IOU for box in true)
