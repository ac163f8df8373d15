"""What is kept of answers on disk: a cache, so that an interrupted run goes on, and a transcript, to read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alref_edge.files import unwritable, written_beside

if TYPE_CHECKING:
    from alref_edge.mllm.questions import Question

_FORMAT = 1
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Known:
    """An answer of the cache.

    Attributes:
        text: what the LLM wrote.
        repaired: whether only the repair attempt made it usable.
    """

    text: str
    repaired: bool


class AnswerCache:
    """Usable answers in a folder, one small JSON file each, named by the key and sorted into folders by its first byte.

    Any number of threads and processes may share one: files are written beside their name and renamed. What is
    damaged or of another form counts as not there, and is written over.

    Args:
        folder: made if it is not there.

    Raises:
        InputError, CapacityError: it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = _folder(folder)

    def get(self, key: str) -> Known | None:
        """The answer of a key; None if there is none that is whole."""
        try:
            with self._file(key).open("rb") as file:
                value = json.loads(file.read(_MAX_BYTES))
            if (value["format"], value["key"]) != (_FORMAT, key):
                return None
            known = Known(value["text"], value["repaired"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return known if isinstance(known.text, str) and isinstance(known.repaired, bool) else None

    def put(self, key: str, known: Known, about: Mapping[str, Any]) -> None:
        """Keeps an answer.

        Args:
            key: of `cache_key`.
            known: the answer.
            about: further facts for whoever reads the file.

        Raises:
            CapacityError: the disk is full.
            InputError: the folder cannot be written.
        """
        path = self._file(key)
        value = {**about, "format": _FORMAT, "key": key, "text": known.text, "repaired": known.repaired}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        with written_beside(path) as file:
            file.write(json.dumps(value).encode("ascii"))

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class Transcript:
    """Every question and what was answered, in a folder: `transcript.jsonl`, one object a question, and `images/`.

    An object has: `time` (UTC), `model`, `template`, `version`, `prompt`, `image` (SHA-256 of the PNG file, which is
    `images/<SHA-256>.png`), `answers` (objects with `text`, `reasoning`, which is what the LLM thought if that came in
    a field of its own, and `problem`, null if it is usable; two if there was a repair attempt), `cached`, `repaired`,
    `retries`, `prompt_tokens`, `completion_tokens`, `seconds`. Lines are added to a file that is there already, each as
    a whole.

    Args:
        folder: made if it is not there.

    Raises:
        InputError, CapacityError: it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = _folder(folder)
        self._images = _folder(self.folder / "images")
        self._path = self.folder / "transcript.jsonl"
        self._lock = threading.Lock()
        try:
            self._file: int | None = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def add(self, question: Question[Any], facts: Mapping[str, Any]) -> None:
        """Adds a question.

        Args:
            question: what was asked.
            facts: the fields that tell of the answer.

        Raises:
            CapacityError: the disk is full; no part of the line is left behind.
            InputError: the file cannot be written.
        """
        digest = hashlib.sha256(question.image_png).hexdigest()
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "template": question.template,
            "version": question.version,
            "prompt": question.prompt,
            "image": digest,
            **facts,
        }
        line = json.dumps(entry).encode("ascii") + b"\n"
        with self._lock:
            if self._file is None:
                return
            image = self._images / f"{digest}.png"
            if not image.exists():
                with written_beside(image) as file:
                    file.write(question.image_png)
            _append(self._file, self._path, line)

    def close(self) -> None:
        """Closes the file. What is added later is dropped."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None


def cache_key(model: str, question: Question[Any], *, max_tokens: int, seed: int, thinking: bool = False) -> str:
    """What an answer depends on, as a SHA-256 in hexadecimal: the model, the whole question, and the sampling.

    Not the form in which the schema was told, which is the server's to choose: an answer is held against it anyway.
    """
    parts = {
        "format": _FORMAT,
        "model": model,
        "template": question.template,
        "version": question.version,
        "prompt": question.prompt,
        "schema": question.schema,
        "image": hashlib.sha256(question.image_png).hexdigest(),
        "max_tokens": max_tokens,
        "seed": seed,
        "thinking": thinking,
    }
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def _append(file: int, path: Path, line: bytes) -> None:
    """Writes a line to the end of a file; all of it, or none."""
    before = os.fstat(file).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(file, before)
        raise unwritable(path, error) from error


def _folder(folder: str | Path) -> Path:
    """The folder, made if need be and seen to be writable."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    return path
