"""Files that are something else than was meant, told by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import MediaError
from alref_edge.media import decode_audio, open_video
from alref_edge.media.content import kind_of


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_pictures_are_told(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, form)
    assert (kind_of(file) or "").casefold().split()[1] == form.casefold()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"<!DOCTYPE html>\n<HTML>", "a web page"),
        ("größer\r\n\tals ".encode() * 99, "text"),
        (b"a" * 511 + "é".encode(), "text"),
        (b"caf\xe9", None),
        (b"text\x00", None),
        (np.random.default_rng(0).bytes(600), None),
    ],
)
def test_other_files_are_told(content: bytes, kind: str | None) -> None:
    assert kind_of(io.BytesIO(content)) == kind


@pytest.mark.parametrize(("name", "got"), [("a.jpg", "a JPEG image"), ("a.webp", "a WebP image"), ("a.txt", "text")])
def test_a_sound_or_video_that_is_none_is_called_what_it_is(tmp_path: Path, name: str, got: str) -> None:
    if name == "a.txt":
        (tmp_path / name).write_text("just words " * 50)
    else:
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    with pytest.raises(MediaError, match=f"not a sound.*Got: {got}.*give a sound"):
        decode_audio(tmp_path / name)
    if name != "a.jpg":  # a picture is an input
        with pytest.raises(MediaError, match=f"not a video.*Got: {got}"):
            open_video(tmp_path / name)
