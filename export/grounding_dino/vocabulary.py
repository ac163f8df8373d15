"""WordPiece vocabularies for seeded models, where the real one of BERT is not at hand."""

from __future__ import annotations

import string
from pathlib import Path

from alref_edge.errors import InputError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Where bert-base-uncased has them; the official code and transformers hold the last four as numbers.
_OFFICIAL_PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
_WORDS = """
the a an of on in at to is are and or with by for from under over behind beside near next between front back top bottom
left right middle centre center upper lower far close first second third last other another same one two three four five
this that these those it he she they who which what where not no all each every some only most more than as its his her
their being be been was were has have holding carrying wearing walking running standing sitting lying jumping moving
riding eating drinking playing looking turning flying swimming sleeping driving falling rolling going coming still fast
slow away toward towards across along around through up down out into off red orange yellow green blue purple violet
pink brown black white grey gray dark light bright pale striped spotted plain coloured colored gold golden silver
circle square triangle rectangle star ring cross diamond hexagon pentagon ellipse oval ball box cube cone line disc disk
shape object thing part side corner edge big small large little tiny huge tall short long wide narrow thin thick old
young new round flat open closed empty full heavy wooden metal glass plastic bigger smaller biggest smallest largest
taller longer closer closest nearest person people man woman boy girl child children baby men women player rider dancer
singer animal dog cat bird horse cow sheep pig duck chicken fish rabbit mouse bear elephant zebra giraffe lion tiger
monkey panda fox wolf deer goat puppy kitten snake turtle frog bee car truck bus van train bike bicycle motorcycle
motorbike boat ship plane airplane helicopter skateboard surfboard road street bridge house building wall door window
floor room bed chair table sofa couch desk lamp shelf cupboard curtain carpet pillow blanket picture mirror clock
bedroom kitchen garden tree grass flower leaf plant bush sky cloud sun moon water river sea lake beach sand stone rock
mountain hill snow ice fire rain hat cap shirt coat dress shoe shoes bag backpack umbrella book paper pen phone
computer laptop screen keyboard television camera bottle cup bowl plate fork knife spoon bread cake apple banana fruit
pizza toy doll teddy kite rope stick gun guitar piano violin drum flute trumpet head face eye ear nose mouth hair hand
arm leg foot tail wing body neck paw fur sound noise music medium heart above below stands does move moves swings forth
sounding silent
"""


def make_vocabulary(size: int) -> list[str]:
    """A deterministic WordPiece vocabulary: special tokens, punctuation, letters and digits alone and as continuations,
    common English words.

    Any text of Latin letters is tokenised with it, if only letter by letter. With room for it (as in the 30,522 of
    bert-base-uncased) the special tokens, the period and the question mark have their official ids.

    Args:
        size: lines of the vocabulary.

    Raises:
        InputError: `size` does not hold the letters and words.
    """
    characters = string.ascii_lowercase + string.digits
    tokens = [*string.punctuation, *characters, *(f"##{character}" for character in characters)]
    tokens += sorted({word for word in _WORDS.split() if len(word) > 1})
    official = size > max(_OFFICIAL_PLACES.values()) + len(tokens)
    places = dict(_OFFICIAL_PLACES) if official else {token: index for index, token in enumerate(_SPECIAL)}
    rest = iter([token for token in tokens if token not in places])
    if size < len(places) + len(tokens):
        raise InputError("The vocabulary is too small.", expected=f"at least {len(places) + len(tokens)}", got=size)
    by_place = {place: token for token, place in places.items()}
    return [by_place[i] if i in by_place else next(rest, f"[unused{i}]") for i in range(size)]


def write_vocabulary(path: Path, size: int) -> Path:
    """Write `make_vocabulary(size)` as a `vocab.txt`, one token a line."""
    path.write_text("".join(f"{token}\n" for token in make_vocabulary(size)), encoding="utf-8")
    return path


def read_vocabulary(path: Path, size: int) -> list[str]:
    """Read a `vocab.txt` and check that it fits a text encoder of `size` tokens.

    Raises:
        InputError: it cannot be read, has another number of tokens, or lacks one that captions need.
    """
    try:
        tokens = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The vocabulary {path} cannot be read: {error}.", mend="give the vocab.txt of BERT."
        ) from error
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]", ".", "?") if token not in tokens]
    if missing or len(tokens) != size:
        raise InputError(
            f"The vocabulary {path} does not fit the text encoder.",
            expected=f"{size} tokens, [UNK], [CLS], [SEP], '.' and '?' among them",
            got=f"{len(tokens)} tokens" + (f", without {', '.join(missing)}" if missing else ""),
            mend="give the vocab.txt that the model was trained with.",
        )
    return tokens
