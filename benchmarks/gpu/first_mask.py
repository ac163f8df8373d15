"""`python -m benchmarks.gpu.first_mask BUNDLE DEVICE PRECISION THREADS`: track one object as soon as can be.

Prints when each step was done, in seconds since the epoch, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    stamps: dict[str, float] = {}
    import numpy as np

    from alref_edge.models.sam2 import Sam2VideoTracker
    from benchmarks.gpu.subject import FRAME_HW, Subject, Variant, drawn_boxes, frame_stream

    stamps["imported"] = time.time()
    root, device, precision, threads = argv
    subject, variant = Subject(Path(root), device, 1, int(threads), Path()), Variant(precision, precision)
    component = subject.component("sam2", variant)
    stamps["verified"] = time.time()
    with Sam2VideoTracker.from_component(component, device, options=subject.options(variant)) as tracker:
        state = tracker.start(2, *FRAME_HW)
        (_, first), (_, second) = frame_stream(2)
        state.add_points_or_box(0, 0, first, box=np.array(drawn_boxes(1)[0], np.float32))
        stamps["prompted"] = time.time()
        for result in state.propagate(enumerate((first, second))):
            result.masks_nhw()
        stamps["tracked"] = time.time()
    print(json.dumps(stamps))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
