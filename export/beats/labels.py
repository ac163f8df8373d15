"""Labels of a tagger, in the order of its outputs, with the names that AudioSet's ontology gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from alref_edge.errors import InputError

SILENCE = "Silence"
_ONTOLOGY_ID = re.compile(r"/[mgt]/\w+")

Labels = tuple[tuple[str, str], ...]


def named_labels(ids: Sequence[str], ontology: Path | None) -> Labels:
    """Labels as (id, name). A label that is no id of AudioSet's kind, such as "/m/028v0c", is its own name.

    Args:
        ids: in the order of the outputs.
        ontology: AudioSet's `ontology.json`.

    Raises:
        InputError: ids need names and there is no ontology, it cannot be read, lacks one, or two have one name.
    """
    unnamed = [each for each in ids if _ONTOLOGY_ID.fullmatch(each)]
    if unnamed and ontology is None:
        raise InputError(
            "The checkpoint's labels are ids, which have no names without the ontology.",
            expected="AudioSet's ontology.json",
            got=f"{len(unnamed)} ids such as {unnamed[0]}",
            mend="give the file with --ontology; it is in github.com/audioset/ontology.",
        )
    names = read_ontology(ontology) if ontology is not None else {}
    unknown = [each for each in unnamed if each not in names]
    if unknown:
        raise InputError(
            f"{ontology} lacks labels of the checkpoint.", got=unknown[:5], mend="give the ontology.json of AudioSet."
        )
    labels = tuple((each, names.get(each, each)) for each in ids)
    if len({name for _, name in labels}) < len(labels):
        raise InputError("Two labels have one name.", expected=f"{len(labels)} names", mend="check the ontology.")
    return labels


def silence_of(labels: Labels) -> int | None:
    """The place of Silence among the labels, if it is one of them."""
    return next((index for index, (_, name) in enumerate(labels) if name == SILENCE), None)


def read_ontology(path: Path) -> dict[str, str]:
    """Names by id.

    Raises:
        InputError: there is no such file, or it is no ontology.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["name"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as an ontology.",
            expected='a list of {"id", "name", ...}',
            got=repr(error),
            mend="give AudioSet's ontology.json.",
        ) from error
    if not names or not all(isinstance(part, str) for pair in names.items() for part in pair):
        raise InputError(f"{path} names nothing.", expected='a list of {"id", "name", ...}')
    return names


def write_labels(labels: Labels, path: Path) -> Path:
    """Write labels as the runtime reads them: a JSON list of [id, name]."""
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in labels)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return path


def made_up_labels(count: int) -> tuple[str, ...]:
    """Labels of seeded weights: "sound 0" and so on, and Silence where the official checkpoints have it."""
    place = min(235, count - 1)
    return tuple(SILENCE if index == place else f"sound {index}" for index in range(count))
