"""An index of a video made from its packets, without decoding: when each frame is shown, where decoding can begin."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from alref_edge.errors import MediaError
from alref_edge.media.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
# One packet, one shown frame. Not VP8 (hidden reference frames) nor MPEG-4 part 2 (packed and empty pictures).
_CODECS = frozenset(
    {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd", "ffv1", "png", "rawvideo"}
)


@dataclass(frozen=True)
class PacketIndex:
    """T frames in display order, G key-frame groups.

    Attributes:
        pts_t: int64, presentation time of each frame in the stream's time base, strictly increasing.
        packet_t: int64, ordinal (in the file's order) of the packet that holds each frame.
        starts_g: int64, first frame of each group; the first is 0.
        keys_g: int64 `[G, 3]`: ordinal, pts and dts of the key packet with which decoding of the group begins.
        last_s: length of the last frame in seconds (0 where unknown).

    A group begins only where decoding gives every frame from there on, bit for bit: at a key frame before which, in
    display order, nothing comes after it in the file (a closed group), and which in H.264 is an IDR picture.
    """

    pts_t: np.ndarray
    packet_t: np.ndarray
    starts_g: np.ndarray
    keys_g: np.ndarray
    last_s: float

    def __len__(self) -> int:
        return len(self.pts_t)

    def group(self, index: int) -> int:
        """The group that holds frame `index`."""
        return int(np.searchsorted(self.starts_g, index, side="right")) - 1

    def find(self, pts: int) -> int:
        """The frame shown at `pts`, or -1."""
        row = int(np.searchsorted(self.pts_t, pts))
        return row if row < len(self.pts_t) and self.pts_t[row] == pts else -1

    def runs(self, wanted: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
        """Cuts ascending frames into runs that each decode on without a seek: `(group to begin with, frames)`."""
        frames = np.asarray(wanted, np.int64)
        groups = np.searchsorted(self.starts_g, frames, side="right") - 1
        # A seek pays where going on would decode frames between the last wanted one and the next one's key frame.
        cuts = np.flatnonzero((groups[1:] != groups[:-1]) & (self.starts_g[groups[1:]] > frames[:-1] + 1)) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(frames)]):
            yield int(groups[start]), wanted[start:stop]


def index_packets(
    container: InputContainer,
    stream: VideoStream,
    packets: Iterable[Packet[VideoStream]],
    limits: Limits,
    what: object,
) -> PacketIndex | None:
    """Reads every packet of the stream. None where packets do not tell the frames; they have to be counted by decoding.

    Args:
        container, stream: just opened.
        packets: those of the stream that hold a picture, from the start.
        limits: caps.
        what: the video, for errors.

    Raises:
        MediaError: a packet is cut off, or there are more frames than the limit.
    """
    if not _CONTAINERS & set(container.format.name.split(",")) or stream.codec_context.name not in _CODECS:
        return None
    is_idr = _idr_test(stream)
    pts_p: list[int] = []
    dts_p: list[int] = []
    shown_p: list[bool] = []
    keys: list[int] = []
    duration = 0
    for packet in packets:
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise MediaError(
                f"{what} is truncated: it ends in the middle of a picture.",
                expected=f"{stream.frames} frames" if stream.frames else "whole pictures",
                got=f"{len(pts_p)} whole ones",
                mend="copy the file again, or keep what is whole: ffmpeg -i IN -c copy OUT.mp4",
            )
        if packet.pts is None or (not pts_p and not packet.is_keyframe):
            return None
        if packet.is_keyframe and (not pts_p or is_idr(packet)):
            keys.append(len(pts_p))
        pts_p.append(packet.pts)
        dts_p.append(packet.pts if packet.dts is None else packet.dts)
        shown_p.append(not packet.is_discard)
        duration = packet.duration or duration
        limits.check_frames(len(pts_p), what)
    if not any(shown_p):
        return None
    last_s = max(0.0, duration * float(stream.time_base or 0))
    return _arrange(np.array(pts_p, np.int64), np.array(dts_p, np.int64), np.array(shown_p), keys, last_s)


def _arrange(
    pts_p: np.ndarray, dts_p: np.ndarray, shown_p: np.ndarray, keys: list[int], last_s: float
) -> PacketIndex | None:
    if len(np.unique(pts_p)) != len(pts_p):
        return None
    shown = np.flatnonzero(shown_p)
    packet_t = shown[np.argsort(pts_p[shown], kind="stable")]
    pts_t = pts_p[packet_t]
    none = np.iinfo(np.int64)
    before_p = np.concatenate(([none.min], np.maximum.accumulate(pts_p)[:-1]))
    after_p = np.concatenate((np.minimum.accumulate(pts_p[::-1])[::-1][1:], [none.max]))
    closed = [key for key in keys if before_p[key] < pts_p[key] < after_p[key]]
    if not closed or closed[0] != 0:
        return None
    starts: list[int] = []
    rows: list[int] = []
    for key in closed:
        start = int(np.searchsorted(pts_t, pts_p[key]))
        if starts and starts[-1] == start:
            rows[-1] = key
        elif start < len(pts_t):
            starts.append(start)
            rows.append(key)
    keys_g = np.stack((np.array(rows, np.int64), pts_p[rows], dts_p[rows]), axis=1)
    return PacketIndex(pts_t, packet_t, np.array(starts, np.int64), keys_g, last_s)


def _idr_test(stream: VideoStream) -> Callable[[Packet[VideoStream]], bool]:
    """A test of a key packet: no picture after it refers to one before it (false for H.264's recovery points)."""
    if stream.codec_context.name != "h264":
        return lambda packet: True
    extra = stream.codec_context.extradata or b""
    prefix = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
    return lambda packet: 5 in _nal_types(bytes(packet), prefix)


def _nal_types(data: bytes, prefix: int) -> set[int]:
    """Types of the H.264 NAL units of a packet, length-prefixed (`prefix` bytes) or, for 0, with start codes."""
    types = set()
    offset = 0
    if prefix:
        while offset + prefix < len(data):
            types.add(data[offset + prefix] & 31)
            offset += prefix + int.from_bytes(data[offset : offset + prefix], "big")
        return types
    while (offset := data.find(b"\x00\x00\x01", offset)) >= 0 and offset + 3 < len(data):
        types.add(data[offset + 3] & 31)
        offset += 3
    return types
