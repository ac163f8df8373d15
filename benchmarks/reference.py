"""The official pipeline's structure beside `alref-edge`: the bundle's weights, frames and recorded answers.

The official side runs in the reference environment (ALREF_REFERENCE_PYTHON), sentence by sentence and object by object
as the official code does; ours takes those of a video together. Compared are boxes and every mask, with --audio also
what sounds in each second and the maps of classes; both are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks import reference_sentences, reference_sound
from benchmarks.official_side import WEIGHTS
from benchmarks.timing import environment


def main(argv: list[str]) -> int:
    """Run both sides; 0 when they agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks reference", description=__doc__)
    parser.add_argument("video", nargs="?", type=Path, help="a generated scene, if left out")
    parser.add_argument("--audio", action="store_true", help="what sounds in generated clips, instead of sentences")
    parser.add_argument("--frames", type=int, default=40, help="of the video that sentences refer to")
    parser.add_argument("--bundle", type=Path, help="the shipped one, if left out")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of what the bundle was exported from")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args(argv)
    if arguments.audio and arguments.video is not None:
        parser.error("--audio has its own clips: leave out the video")

    part = reference_sound if arguments.audio else reference_sentences
    with tempfile.TemporaryDirectory() as folder:
        report = {"program": "reference", **part.compare(Path(folder), arguments)}
    report["ratio"] = report["official_s"] / report["ours_s"]
    report["environment"] = environment(("onnxruntime", "numpy", "av", "pillow"))
    for line in part.lines(report):
        print(line)
    print(f"official {report['official_s']:.1f} s, ours {report['ours_s']:.1f} s: {report['ratio']:.1f} times as fast")
    print("EQUAL" if report["equal"] else "NOT EQUAL")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["equal"] else 1
