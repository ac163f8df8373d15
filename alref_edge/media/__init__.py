"""Reading of videos, frame folders, images and sounds; writing of overlays, masks and run-length encodings. A leaf.

PyAV, Pillow and pycocotools are loaded when first used, not when this package is imported.
"""

from alref_edge.media.audio import decode_audio, probe_audio
from alref_edge.media.dispatch import open_video
from alref_edge.media.drawing import draw_overlay
from alref_edge.media.folder import natural_key
from alref_edge.media.frames import FrameSource
from alref_edge.media.limits import Limits
from alref_edge.media.masks import coco_annotation, decode_rle, encode_rle, write_indexed_png, write_mask_png
from alref_edge.media.overlay import OVERLAY_TICKS, OverlayWriter, write_overlay_png
from alref_edge.media.palette import DAVIS_PALETTE, object_colour
from alref_edge.media.source import VideoInfo, VideoSource
from alref_edge.media.spill import spill_folder
from alref_edge.media.waveform import Audio, AudioInfo, AudioLimits

__all__ = [
    "DAVIS_PALETTE",
    "OVERLAY_TICKS",
    "Audio",
    "AudioInfo",
    "AudioLimits",
    "FrameSource",
    "Limits",
    "OverlayWriter",
    "VideoInfo",
    "VideoSource",
    "coco_annotation",
    "decode_audio",
    "decode_rle",
    "draw_overlay",
    "encode_rle",
    "natural_key",
    "object_colour",
    "open_video",
    "probe_audio",
    "spill_folder",
    "write_indexed_png",
    "write_mask_png",
    "write_overlay_png",
]
