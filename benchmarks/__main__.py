"""`python -m benchmarks NAME …`: run one of the measuring programs."""

from __future__ import annotations

import sys
from importlib import import_module

PROGRAMS = {
    "components": "each graph beside the official PyTorch module, in one run",
    "reference": "the official pipeline's structure beside `alref-edge rvos`: boxes, masks, times",
    "sharing": "ten sentences on one clip beside ten runs",
    "vectors": "make tests/vectors: the official answers on the shipped weights",
    "mllm": "an LLM's server under load: many requests at once beside one at a time",
    "overlap": "reasoning and tracking side by side, beside one after the other",
    "memory": "resident memory over a long video",
    "gpu": "the targets on a GPU, ours and the official code: every row of the table by one command",
    "compare": "two results of `gpu`: fails where the new one is slower",
    "report": "all results as one page: tables, plots, floors",
    "skeleton": "a bundle without its weights, for `gpu` on another machine",
    "fill": "random weights for such a one",
}


def main(argv: list[str]) -> int:
    """Dispatch to a program's `main(argv)`; list them where none is named."""
    if not argv or argv[0] not in PROGRAMS:
        asked = not argv or argv[0] in ("-h", "--help")
        out = sys.stdout if asked else sys.stderr
        print("usage: python -m benchmarks PROGRAM [options]\n", file=out)
        for name, what in PROGRAMS.items():
            print(f"  {name:<12} {what}", file=out)
        return 0 if asked else 2
    return int(import_module(f"benchmarks.{argv[0]}").main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
