"""Which objects sound, as texts to compare a sound with (AL-Ref-SAM 2, `avs/*/languagebind_stage*.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from alref_edge.errors import CapacityError

# Labels that are better asked for by their sound.
SYNONYMS: Mapping[str, str] = {"dog": "dog barking", "cat": "cat meow", "gun": "gun shot"}
# 2**10 - 1 texts; the language model's answers name three objects at most.
MAX_LABELS = 10


def combine_labels(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty combination of labels, the smaller before the larger, labels in their order.

    Raises:
        CapacityError: there are more than `MAX_LABELS`.
    """
    if len(labels) > MAX_LABELS:
        raise CapacityError(
            "There are too many labels to compare all combinations of.",
            expected=f"at most {MAX_LABELS}",
            got=len(labels),
            mend="leave out those that are not seen.",
        )
    return [chosen for size in range(1, len(labels) + 1) for chosen in combinations(labels, size)]


def phrase(labels: Sequence[str], *, separator: str = ", ", synonyms: Mapping[str, str] = SYNONYMS) -> str:
    """The text of a combination: each label or its synonym, joined by the separator."""
    return separator.join(synonyms.get(label, label) for label in labels)
