"""BEATs: names of what is heard in a sound."""

from alref_edge.models.beats.tagger import LONGEST_S, Beats, union_of_tags

__all__ = ["LONGEST_S", "Beats", "union_of_tags"]
