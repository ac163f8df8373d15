"""Every folder layout that scenes can be written in, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alref_edge.datasets.synthetic.avs_folders import AvsbenchMs3, AvsbenchS4, AvsbenchSemantic
from alref_edge.datasets.synthetic.clips import Mp4Clips
from alref_edge.datasets.synthetic.folders import DatasetFolder, FolderLayout, video_name
from alref_edge.datasets.synthetic.rvos_folders import Mevis, RefDavis17, RefYoutubeVos
from alref_edge.datasets.synthetic.scene import make_scene
from alref_edge.errors import InputError

_FPS = 8
_SECONDS = 5
_LONG_SECONDS = 10
_MOST_SCENES = 100_000
_LARGEST = 4096
_ONE_SOUND = "an object alone of its shape that is in view from beginning to end, so that it alone can sound"


@dataclass(frozen=True)
class Layout:
    """A way to write scenes.

    Attributes:
        writer: does it.
        splits: names of the parts it may have; the first is the usual one.
        every_long: of each so many seeds, the last gives a clip of 10 s instead of 5 s; 0 for none.
        needs: what a scene must have to suit it, in words; most scenes do.
    """

    writer: Callable[[Path, str], FolderLayout]
    splits: tuple[str, ...]
    every_long: int = 0
    needs: str = "an object that words can tell from the rest"


LAYOUTS = {
    "ref-youtube-vos": Layout(RefYoutubeVos, ("valid", "train")),
    "ref-davis17": Layout(RefDavis17, ("valid", "train")),
    "mevis": Layout(Mevis, ("valid_u", "train")),
    "avsbench-s4": Layout(AvsbenchS4, ("test", "val", "train"), needs=_ONE_SOUND),
    "avsbench-ms3": Layout(AvsbenchMs3, ("test", "val", "train")),
    "avsbench-avss": Layout(AvsbenchSemantic, ("test", "val", "train"), every_long=3),
    "mp4": Layout(Mp4Clips, ("all",)),
}


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: folder of the dataset.
        layout, split: names.
        videos: their names, by seed.
        left_out: seeds whose scenes do not suit the layout.
    """

    path: Path
    layout: str
    split: str
    videos: tuple[str, ...]
    left_out: tuple[int, ...]


def write_dataset(
    path: str | os.PathLike[str],
    layout: str,
    seeds: Sequence[int],
    *,
    split: str | None = None,
    width: int = 256,
    height: int = 256,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the scenes of some seeds in the layout of a public dataset; the folder is whole or not there.

    `synthetic.json` in it says what made each video, and what is true of it beyond what the layout holds.

    Args:
        path: of the folder.
        layout: a key of `LAYOUTS`.
        seeds: of the scenes; each once.
        split: one of the layout's; its first by default.
        width, height: of the frames.
        overwrite: replace an earlier dataset written by this function, and nothing else.
        progress: told how many scenes are done, of how many.

    Raises:
        InputError: no such layout or split, no seeds or too many, seeds or sizes that make no scene, no scene that
            suits the layout, or a place that cannot be written or holds something else.
        CapacityError: the disk is full.
        MediaError: no video encoder works.
    """
    chosen = LAYOUTS.get(layout)
    if chosen is None:
        raise InputError("There is no such layout.", expected=", ".join(LAYOUTS), got=layout, mend="choose one.")
    split = chosen.splits[0] if split is None else split
    if split not in chosen.splits:
        raise InputError(f"{layout} has no such split.", expected=" or ".join(chosen.splits), got=split)
    if not 0 < len(seeds) <= _MOST_SCENES or len(set(seeds)) != len(seeds):
        raise InputError(
            "A dataset is made of seeds.", expected=f"1 to {_MOST_SCENES}, each once", got=f"{len(seeds)} seeds"
        )
    if max(width, height) > _LARGEST:
        raise InputError("These frames are too large.", expected=f"sides up to {_LARGEST}", got=f"{width}x{height}")
    videos, left_out = [], []
    with DatasetFolder(path, overwrite=overwrite) as folder:
        writer, truths = chosen.writer(folder.partial, split), {}
        for done, seed in enumerate(seeds):
            long = chosen.every_long and seed % chosen.every_long == chosen.every_long - 1
            scene = make_scene(seed, width, height, _FPS * (_LONG_SECONDS if long else _SECONDS), _FPS)
            truth = writer.add(scene)
            if truth is None:
                left_out.append(seed)
            else:
                videos.append(video_name(scene))
                truths[videos[-1]] = truth
            if progress is not None:
                progress(done + 1, len(seeds))
        if not videos:
            raise InputError(
                f"No scene of these seeds suits {layout}.",
                expected=chosen.needs,
                got=f"none in seed{'s' * (len(seeds) > 1)} {', '.join(map(str, left_out[:5]))}"
                + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""),
                mend="give more seeds, such as --seeds 0:10: most scenes have one.",
            )
        writer.finish()
        folder.record |= {"layout": layout, "split": split, "left_out": left_out, "videos": truths}
    return Written(folder.path, layout, split, tuple(videos), tuple(left_out))
