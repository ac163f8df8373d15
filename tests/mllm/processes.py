"""Which processes of a server are there."""

from __future__ import annotations

import time

import psutil


def with_text(text: str) -> list[psutil.Process]:
    """Processes with a text in their environment, of whatever parent or session, without those that have ended."""
    return [process for process in psutil.process_iter() if any(text in value for value in _environment(process))]


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else list(process.environ().values())
    except psutil.Error:
        return []


def none_left(text: str, within_s: float = 30.0) -> bool:
    """Whether all of them are gone in time."""
    until = time.monotonic() + within_s
    while left := with_text(text):
        if time.monotonic() > until:
            print([process.as_dict(["pid", "name", "cmdline"]) for process in left])
            return False
        time.sleep(0.1)
    return True
