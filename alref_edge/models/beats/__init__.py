"""BEATs: names of what is heard in a sound."""

from alref_edge.models.beats.tagger import Beats, Tag, union_of_tags

__all__ = ["Beats", "Tag", "union_of_tags"]
