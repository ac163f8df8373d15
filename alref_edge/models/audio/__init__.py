"""Front ends of the audio networks, in numpy: Kaldi's filter banks (BEATs, LanguageBind) and YAMNet's log-mel patches.

All take sound as float `[samples]` in [-1, 1], as `alref_edge.media.decode_audio` gives it at 16 kHz.
"""

from alref_edge.models.audio.fbank import kaldi_fbank
from alref_edge.models.audio.log_mel import log_mel_patches

__all__ = ["kaldi_fbank", "log_mel_patches"]
