"""LanguageBind: sounds and texts in one space (arXiv 2310.01852), to tell which of some objects sound when."""

from alref_edge.models.languagebind.labels import SYNONYMS, combine_labels
from alref_edge.models.languagebind.model import LanguageBind
from alref_edge.models.languagebind.preprocess import AudioFrontEnd
from alref_edge.models.languagebind.text import ClipTokenizer

__all__ = ["SYNONYMS", "AudioFrontEnd", "ClipTokenizer", "LanguageBind", "combine_labels"]
