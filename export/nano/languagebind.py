"""LanguageBind nano, from scratch: sounds and the names of what makes them, in one space.

A sound lies nearest to the text that names all that sounds of some candidates, and nothing that does not. A space has
room for that: where each shape has a direction of its own, a set of shapes is their sum. The names of the sounds, as
BEATs nano has them, lie beside the shapes'.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alref_edge.datasets.synthetic import TRAINING_SEEDS
from alref_edge.models.languagebind import AudioFrontEnd, ClipTokenizer, combine_labels
from alref_edge.models.languagebind.labels import phrase
from export.languagebind.checkpoint import audio_tower, read_weights, text_tower, weights_file
from export.languagebind.configs import audio_config, official_config, text_config
from export.languagebind.modules import AudioTower, TextTower
from export.languagebind.vocabulary import make_vocabulary, write_vocabulary
from export.nano.sounds import NAMES, SHAPES, UNSEEN, clips, mix, sounding_quality

_SEED = 11
# 1.4 s, of the official 10.4: segments are short, those that are shorter still are repeated, and quick is good.
_FRAMES = 140
_LISTS = 6
# The weight of where in the space a sound lies, beside that of what it is told to be.
_PLACE = 10.0
_HOW_MANY = (0.4, 0.35, 0.2, 0.05)
_SECONDS, _OFTEN = (1, 2, 3, 5, 8), (0.5, 0.3, 0.1, 0.07, 0.03)
_WORDS = (
    ("circle", "circles", "round thing", "disc", "ball", "ring", "dot"),
    ("square", "squares", "box", "block", "cube", "rectangle", "tile"),
    ("triangle", "triangles", "pyramid", "wedge", "cone", "arrow head", "three corners"),
    ("star", "stars", "starfish", "twinkle", "spark", "asterisk", "five points"),
    ("cross", "crosses", "plus", "plus sign", "crossing", "times sign", "two bars"),
    ("heart", "hearts", "love", "valentine", "pulse", "heart shape", "heart symbol"),
)


class LanguageBindTask:
    """What LanguageBind nano is to learn; see `export.nano.training.Task`.

    Args:
        device: "cpu" or "cuda".
        initial: a folder like the official ones to start from.
        sounds: how many a step has.
    """

    name = "languagebind_nano"

    def __init__(self, device: str = "cpu", initial: Path | None = None, *, sounds: int = 16) -> None:
        torch.manual_seed(_SEED)
        self.sounds = sounds
        self.config = official_config("nano")
        self.config["vision_config"]["target_length"] = _FRAMES
        self.audio_config, text = audio_config(self.config), text_config(self.config)
        self.model = _Towers(AudioTower(self.audio_config), TextTower(text))
        if initial is not None:
            weights = read_weights(weights_file(initial))
            self.model.audio.load_state_dict(audio_tower(weights, self.audio_config).state_dict())
            self.model.text.load_state_dict(text_tower(weights, text).state_dict())
        self.model.to(device)
        self.device = device
        a = self.audio_config
        self.front_end = AudioFrontEnd(a.sample_rate, a.mel_bins, a.frames, a.mean, a.std)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_vocabulary(*make_vocabulary(text.vocab_size), Path(folder))
            self.tokenizer = ClipTokenizer(*vocabulary, context_length=text.positions)

    def loss(self, step: int) -> dict[str, Tensor]:
        """See `Task.loss`: which combination sounds, of some lists of candidates; which shape a word means."""
        generator = np.random.default_rng([TRAINING_SEEDS, _SEED, step])
        heard_bs = np.zeros((self.sounds, len(SHAPES)), bool)
        for heard_s in heard_bs:
            order = generator.permutation(len(SHAPES))
            heard_s[order[: generator.choice(len(_HOW_MANY), p=_HOW_MANY) + 1]] = True
        seconds = generator.choice(_SECONDS, size=self.sounds, p=_OFTEN)
        waves = [mix(generator, np.tile(heard_s, (s, 1))) for heard_s, s in zip(heard_bs, seconds, strict=True)]
        sounds_bd = self.embed_audio(waves)
        sounding = place = torch.zeros(())
        for _ in range(_LISTS):
            size = generator.choice((2, 3, 4), p=(0.4, 0.4, 0.2))
            shapes = generator.permutation(len(SHAPES))[:size].tolist()
            sets = combine_labels([SHAPES[shape] for shape in shapes])
            separator = str(generator.choice([", ", "; "], p=[0.7, 0.3]))
            texts_cd = self.embed_text([phrase(each, separator=separator) for each in sets])
            meant_cs = np.array([[shape in each for shape in SHAPES] for each in sets])
            cosines_bc = sounds_bd @ texts_cd.T
            place = place + functional.mse_loss(cosines_bc, self._tensor(_alike(heard_bs, meant_cs))) / _LISTS
            there_bs = heard_bs & np.isin(np.arange(len(SHAPES)), shapes)
            some = np.flatnonzero(there_bs.any(axis=1))
            wanted = (there_bs[:, None] == meant_cs).all(axis=2).argmax(axis=1)
            sounding = sounding + self._told(cosines_bc[some], wanted[some]) / _LISTS
        words = [word for name, words in zip(NAMES, _WORDS, strict=True) for word in (name, *words)]
        means = np.arange(len(SHAPES)).repeat(len(words) // len(SHAPES))
        meaning = self._told(self.embed_text(words) @ self.embed_text(SHAPES).T, means)
        loss = sounding + _PLACE * place + meaning
        return {"loss": loss, "sounding": sounding, "place": place, "meaning": meaning}

    def evaluate(self) -> dict[str, float]:
        """The share of seconds of 64 tracks whose sounding shapes are told, and of names of sounds that are placed."""
        names = self.embed_text([f"{name} sound" for name in NAMES]) @ self.embed_text(SHAPES).T
        return {
            "sounding": sounding_quality(clips(UNSEEN, 64), self.sounding),
            "names": float((names.argmax(dim=1).cpu() == torch.arange(len(NAMES))).float().mean()),
        }

    def sounding(self, waves: list[np.ndarray], labels: list[str]) -> list[tuple[str, ...]]:
        """As `LanguageBind.sounding`."""
        chosen = combine_labels(labels)
        texts_cd = self.embed_text([phrase(each) for each in chosen])
        return [chosen[best] for best in (self.embed_audio(waves) @ texts_cd.T).argmax(dim=1).tolist()]

    def embed_audio(self, waves: list[np.ndarray]) -> Tensor:
        """Of length 1, `[sounds, D]`."""
        pictures = np.stack([self.front_end.picture(wave) for wave in waves])
        return torch.as_tensor(self.model.audio(torch.from_numpy(pictures).to(self.device)))

    def embed_text(self, texts: Any) -> Tensor:
        """Of length 1, `[texts, D]`."""
        return torch.as_tensor(self.model.text(torch.from_numpy(self.tokenizer.encode(texts)).to(self.device)))

    def finish(self) -> None:
        """See `Task.finish`: there is nothing to do."""

    def save(self, path: Path) -> None:
        """See `Task.save`: a folder like the official ones, `languagebind_nano`, weights in float16."""
        folder = path.with_suffix("")
        folder.mkdir(exist_ok=True)
        scale = {"logit_scale": self.model.logit_scale}
        weights = self.model.audio.state_dict() | self.model.text.state_dict() | scale
        halves = {name: value.detach().cpu().half() for name, value in weights.items()}
        torch.save(halves, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        write_vocabulary(*make_vocabulary(text_config(self.config).vocab_size), folder)

    def _told(self, cosines_nc: Tensor, wanted_n: np.ndarray) -> Tensor:
        logits_nc = self.model.logit_scale.exp() * cosines_nc
        return functional.cross_entropy(logits_nc, self._tensor(wanted_n), reduction="sum") / max(1, len(wanted_n))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)


class _Towers(nn.Module):
    """Both towers as training begins, and how sharply similarities are told apart; the last is not exported."""

    def __init__(self, audio: AudioTower, text: TextTower) -> None:
        super().__init__()
        self.audio, self.text = audio, text
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        for name, parameter in self.named_parameters():
            if name.endswith("embedding.weight") and parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.1)


def _alike(sets_ns: np.ndarray, others_ms: np.ndarray) -> np.ndarray:
    """The cosine of two sets of shapes, each the sum of its shapes' directions: float32 [N, M] of bool [., shapes]."""
    sizes_nm = sets_ns.sum(axis=1)[:, None] * others_ms.sum(axis=1)
    return np.asarray(sets_ns.astype(np.float32) @ others_ms.T / np.sqrt(sizes_nm), np.float32)
