"""Which runs of a session are captured as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

NONE = -1
"""The number of a run that is neither captured nor replayed (ONNX Runtime's run option `gpu_graph_id`)."""


class GraphCaptures:
    """Numbers the runs of one session that are worth a captured graph.

    A captured graph repeats one run: the same tensors at the same addresses. So a run is known by these, its key. The
    first run of a key is as any other, the second is captured, later ones are replayed.

    ONNX Runtime keeps what was captured until its session ends (`cuda_graph.cc`), so captures are bounded by number and
    none gives way to another: what comes after the last runs uncaptured. Keys that came once do give way, the one that
    was seen least recently first.

    Args:
        most: captures.
        candidates: keys seen once that are remembered.
    """

    def __init__(self, most: int = 32, candidates: int = 128) -> None:
        self._most = most
        self._candidates = candidates
        self._numbers: dict[Hashable, int] = {}
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        """Captures so far."""
        return len(self._numbers)

    def number(self, key: Hashable) -> int:
        """The number of the graph that a run captures or replays, from 1 on; `NONE` where it does neither."""
        if key in self._numbers:
            return self._numbers[key]
        if len(self._numbers) >= self._most:
            return NONE
        if key in self._seen:
            del self._seen[key]
            self._numbers[key] = len(self._numbers) + 1
            return self._numbers[key]
        self._seen[key] = None
        if len(self._seen) > self._candidates:
            self._seen.popitem(last=False)
        return NONE

    def stop(self) -> None:
        """Capture and replay nothing any more."""
        self._most = 0
        self._numbers.clear()
        self._seen.clear()
