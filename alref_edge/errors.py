"""The error tree: every error that a user can cause, each with a stable exit code and the way to mend it."""

from __future__ import annotations


class AlrefError(Exception):
    """Base of every error that alref-edge raises for a user's input or surroundings.

    Args:
        message: what failed.
        expected: what would have been right.
        got: what was found instead.
        mend: the command or change that mends it.
    """

    exit_code = 1

    def __init__(self, message: str, *, expected: object = None, got: object = None, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.got = got
        self.mend = mend

    def __str__(self) -> str:
        return self.told(self.mend)

    def told(self, mend: str | None) -> str:
        """The error in one paragraph, with its mend in other words, such as those of the command line."""
        text = self.message
        if self.expected is not None:
            text += f" Expected: {self.expected}."
        if self.got is not None:
            text += f" Got: {self.got}."
        if mend is not None:
            text += f" To mend it: {mend}"
        return text


def quoted(text: str, most: int = 60) -> str:
    """A user's text as a message names it: quoted, on one line, control characters escaped, a long end cut off."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


class InputError(AlrefError):
    """A request that makes no sense: an empty sentence, a pivot outside the video, an unwritable output folder."""

    exit_code = 2


class MediaError(AlrefError):
    """A video, frame folder or image that cannot be read, or is over a limit."""

    exit_code = 3


class BundleError(AlrefError):
    """A bundle that is missing, altered, incomplete, or of another schema."""

    exit_code = 4


class EngineError(AlrefError):
    """A graph that cannot be loaded or run, or tensors that do not fit it."""

    exit_code = 5


class ProviderError(AlrefError):
    """An execution provider that was asked for and does not work here."""

    exit_code = 6


class MllmError(AlrefError):
    """The multimodal LLM's server cannot be reached or gave no usable answer."""

    exit_code = 7


class CapacityError(AlrefError):
    """A request that does not fit the memory or the time that it may use."""

    exit_code = 8
