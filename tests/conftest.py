"""What the tests share: real media, the shipped bundle, and interrupts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from alref_edge import offline

offline.switch_off(offline.HUBS)  # before a test imports transformers

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Ctrl-C reaches the tests and what they start, as from a terminal: a shell's background job would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder of real media: ALREF_MEDIA, else `shared/media` beside the checkout."""
    folder = Path(os.environ.get("ALREF_MEDIA", ROOT.parent / "shared" / "media"))
    if not (folder / "bedroom.mp4").is_file():
        pytest.skip(f"no real media at {folder}; set ALREF_MEDIA")
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder of the published answers: of ALREF_REFERENCE, else `shared/reference` beside the checkout."""
    reference = Path(os.environ.get("ALREF_REFERENCE", ROOT.parent / "shared" / "reference"))
    folder = reference / "al_ref_sam2" / "gpt_results"
    if not folder.is_dir():
        pytest.skip(f"no published answers at {folder}; set ALREF_REFERENCE")
    return folder


@pytest.fixture(scope="session")
def nano_bundle() -> Path:
    """Folder of the bundle that ships with the package."""
    return ROOT / "engines" / "nano"
