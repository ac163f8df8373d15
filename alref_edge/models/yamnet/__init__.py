"""YAMNet: scores of AudioSet's classes, and features of a sound, about every half second."""

from alref_edge.models.yamnet.network import SoundFrames, YamNet

__all__ = ["SoundFrames", "YamNet"]
