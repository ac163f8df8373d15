"""Prompt templates: one text file a decision, shipped here, any of which a folder of the user's may replace."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template

from alref_edge.errors import InputError

SHIPPED_VERSION = "1"
"""Raised whenever a shipped template changes."""

PLACEHOLDERS = {
    "pivot_frame": ("count", "sentence"),
    "pivot_box": ("count", "pivot", "boxes", "sentence"),
    "sounding_objects": ("count", "categories", "most", "labels"),
    "sounding_box": ("count", "category", "pivot", "boxes"),
}
"""Name of each template to what `$name` may stand in it. What tells questions apart should come last: servers share the
work on what is equal from the start."""

_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Templates:
    """The texts of all decisions.

    Attributes:
        texts: by name.
        version: "1" for the shipped ones, for others with a hash of all texts: results with equal versions were
            prompted alike.
    """

    texts: Mapping[str, str] = field(repr=False)
    version: str

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Templates:
        """The shipped templates, with those that a folder holds (`pivot_frame.txt`, ...) in their place.

        Raises:
            InputError: there is no such folder, none of its files is a template, or one cannot be read or filled in.
        """
        shipped = {
            name: files(__package__).joinpath("prompts", f"{name}.txt").read_text("utf-8") for name in PLACEHOLDERS
        }
        if folder is None:
            return cls(shipped, SHIPPED_VERSION)
        own = {name: _read(Path(folder) / f"{name}.txt") for name in PLACEHOLDERS}
        texts = {name: shipped[name] if text is None else text for name, text in own.items()}
        if not any(text is not None for text in own.values()):
            raise InputError(
                f"The folder {folder} has no template.",
                expected=", ".join(f"{name}.txt" for name in PLACEHOLDERS),
                mend="copy those of alref_edge/mllm/prompts and change them.",
            )
        digest = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()
        templates = cls(texts, f"{SHIPPED_VERSION}+{digest[:12]}")
        for name, known in PLACEHOLDERS.items():
            templates.fill(name, **dict.fromkeys(known, ""))
        return templates

    def fill(self, name: str, **values: object) -> str:
        """The prompt of one decision.

        Raises:
            InputError: the template has a `$` that is no placeholder of it.
        """
        try:
            return Template(self.texts[name]).substitute({key: str(value) for key, value in values.items()})
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The template {name}.txt cannot be filled in.",
                expected=", ".join(f"${each}" for each in PLACEHOLDERS[name]),
                got=str(error).strip("'"),
                mend="take it out, or write $$ for a dollar sign.",
            ) from error


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"The template {path} is too large.", expected=f"at most {_MAX_BYTES} bytes")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"The template {path} cannot be read.", got=str(error), mend="save it as UTF-8.") from error
    if not text.strip():
        raise InputError(f"The template {path} is empty.", mend="write it, or take the file away.")
    return text
