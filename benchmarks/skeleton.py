"""A bundle without its weights: graphs, tables of whole numbers and small files, for a machine that measures speed.

What it leaves out, `python -m benchmarks fill` makes up, and `python -m benchmarks gpu` does so by itself. A bundle of
SAM 2.1 large in two precisions is 900 MB and more, its skeleton a few.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.bundle import Bundle
from alref_edge.bundle.manifest import MANIFEST
from alref_edge.errors import AlrefError
from alref_edge.files import PartialFolder
from benchmarks.fill import KEPT, check_new, is_kept, regions_of


def main(argv: list[str]) -> int:
    """Write the skeleton of a bundle into a new folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks skeleton", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args(argv)
    try:
        strip(arguments.bundle, arguments.out)
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out}: {size / 1e6:.1f} MB")
    return 0


def strip(root: Path, out: Path) -> None:
    """Write a bundle's skeleton: its files as they are, but of the weights the numbers that a graph counts with alone.

    Raises:
        BundleError: there is no such bundle, or it is not as it was listed.
        InputError: something is there already.
    """
    check_new(out)
    files = Bundle.open(root).manifest.files
    regions = regions_of(root, files)
    with closing(PartialFolder(Path(os.path.realpath(out)))) as beside:
        for name in (MANIFEST, *files):
            target = beside.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name not in regions:
                shutil.copyfile(root / name, target)
                continue
            weights = np.memmap(root / name, np.uint8, "r")
            kept: dict[str, Any] = {
                str(region.offset): weights[region.offset : region.offset + region.length]
                for region in regions[name].values()
                if is_kept(region)
            }
            np.savez_compressed(target.with_name(target.name + KEPT), **kept)
        beside.publish(replace=False)
