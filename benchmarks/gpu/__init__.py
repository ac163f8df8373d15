"""What the targets of speed on a GPU ask for, measured by one command: `python -m benchmarks gpu`."""

from benchmarks.gpu.command import main

__all__ = ["main"]
