"""The sound of a scene, with the truth of every second: what sounds, seen or not, or silence.

The truth of audio-visual segmentation is told by ear, and one hears shapes, not objects. So a shape sounds or it does
not: while it does, every object of that shape that is in view has its voice, and the mask is all of theirs together. A
shape sounds only in seconds in which each of its objects is in view in every frame or in none, so no object has to
begin or end within a second. If none is in view, the sound comes from off screen, and there is nothing to segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alref_edge.datasets.synthetic.objects import COLOURS, SIZES
from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.datasets.synthetic.timbres import RATE, TIMBRES, pitch_of, play
from alref_edge.errors import InputError

MODES = ("single", "multi")

IN_VIEW_PX = 24
"""An object is in view in a frame in which so many of its pixels are seen, and out of view where none is."""

_STREAM = 16_000
_NO_OBJECT = -1
_LEVEL_DB = (-23.0, -17.0)
_NOISE_DB = (-62.0, -48.0)
_NOISY = 0.4
_SILENCE = 0.25
_SPEAKS = (0.85, 0.4)
_OFF_SCREEN = 0.35
_JITTER_S = 0.08
_FADE_S = 0.015
_PEAK = 0.9


@dataclass(frozen=True)
class SoundEvent:
    """One voice for a while.

    Attributes:
        shape: whose timbre it has.
        object: number of the object; None if the sound comes from off screen.
        start_s, end_s: the whole seconds that it covers; it begins and ends up to 0.08 s inside of them.
        level_db: RMS relative to full scale, before a mix that would clip is turned down as a whole.
    """

    shape: str
    object: int | None
    start_s: int
    end_s: int
    level_db: float


@dataclass(frozen=True)
class SecondLabel:
    """What is heard in one second.

    Attributes:
        objects: numbers of the objects that sound, in order.
        shapes: their shapes, in the order of `TIMBRES`.
        off_screen: the shapes that sound with no object of theirs in view, in the order of `TIMBRES`.
    """

    objects: tuple[int, ...]
    shapes: tuple[str, ...]
    off_screen: tuple[str, ...]

    @property
    def silent(self) -> bool:
        """Whether nothing sounds; there may be a little background noise."""
        return not self.shapes and not self.off_screen


@dataclass(frozen=True, eq=False)
class SoundTrack:
    """The sound of a scene.

    Attributes:
        wave_16khz: mono, float32 [seconds * rate], within [-1, 1].
        rate: samples a second.
        mode: "single" (one object all the time, in view all the time) or "multi".
        labels: one for each second.
        events: every voice, by time.
        noise_db: RMS of the background noise relative to full scale; None if there is none.
    """

    wave_16khz: np.ndarray = field(repr=False)
    rate: int
    mode: str
    labels: tuple[SecondLabel, ...]
    events: tuple[SoundEvent, ...]
    noise_db: float | None

    def __post_init__(self) -> None:
        wave = self.wave_16khz
        if wave.dtype != np.float32 or wave.shape != (len(self.labels) * self.rate,):
            raise InputError(
                "A sound track has another form.",
                expected=f"float32 [{len(self.labels) * self.rate}]",
                got=f"{wave.dtype} {list(wave.shape)}",
            )


def make_sound(scene: Scene, mode: str = "multi") -> SoundTrack:
    """The sound of a scene: the same for the same scene and mode.

    Args:
        scene: its length must be whole seconds.
        mode: "multi": events that begin, end and overlap at whole seconds, silences, sounds from off screen (of shapes
            that are not in the scene, or are out of view), and at times a little noise. "single": one object, the only
            one of its shape, sounds from beginning to end, and is in view in every frame.

    Raises:
        InputError: no such mode, a scene that does not last whole seconds, or, in the mode "single", one that has no
            such object (see `has_single`).
    """
    if mode not in MODES:
        raise InputError("There is no such mode of sound.", expected=" or ".join(MODES), got=mode)
    on, off, seen = _views(scene)
    generator = np.random.default_rng([scene.seed, _STREAM, MODES.index(mode)])
    if mode == "single":
        lasting = np.flatnonzero(on.all(axis=1) & _alone(scene))
        if not len(lasting):
            raise InputError(
                f"Scene {scene.seed} has no object that is alone of its shape and in view all the time.",
                expected="a scene for which has_single is true",
                mend="leave this seed out.",
            )
        sounding = np.zeros_like(on)
        sounding[generator.choice(lasting)] = True
    else:
        sounding = _plan(generator, on, off, {each.shape for each in scene.objects})
    labels = tuple(_label(scene, sounding[:, s], on[:, s], seen[s]) for s in range(on.shape[1]))
    events = _events(generator, scene, labels)
    noise_db = float(generator.uniform(*_NOISE_DB)) if generator.random() < _NOISY else None
    wave = _mix(generator, scene, events, len(labels) * RATE)
    if noise_db is not None:
        wave += _noise(generator, len(wave)) * 10 ** (noise_db / 20)
    wave *= min(1.0, _PEAK / max(float(np.abs(wave).max()), 1e-9))
    return SoundTrack(wave.astype(np.float32), RATE, mode, labels, events, noise_db)


def has_single(scene: Scene) -> bool:
    """Whether an object alone of its shape can sound from beginning to end, in view in every frame; most scenes do.

    Raises:
        InputError: the scene does not last whole seconds.
    """
    return bool((_views(scene)[0].all(axis=1) & _alone(scene)).any())


def _alone(scene: Scene) -> np.ndarray:
    """Which shapes a single object of the scene has, bool [shapes]."""
    return np.array([sum(each.shape == shape for each in scene.objects) == 1 for shape in TIMBRES])


def frame_of_second(scene: Scene, second: int) -> int:
    """The frame that stands for a second: its last, as in AVSBench.

    Raises:
        InputError: the scene has no such second.
    """
    _check_second(scene, second)
    return (second + 1) * scene.fps - 1


def sounding_mask(scene: Scene, sound: SoundTrack, second: int) -> np.ndarray:
    """The pixels of everything that sounds, in the frame of a second, bool [H, W]; none where nothing in view sounds.

    Raises:
        InputError: the scene has no such second.
    """
    labels = scene.labels(frame_of_second(scene, second))
    return np.isin(labels, np.array(sound.labels[second].objects, np.int8))


def class_map(scene: Scene, sound: SoundTrack, second: int) -> np.ndarray:
    """The class of what sounds at each pixel, in the frame of a second, uint8 [H, W].

    0 is the background; the k-th shape of `TIMBRES`, counted from 0, is class k + 1.

    Raises:
        InputError: the scene has no such second.
    """
    labels = scene.labels(frame_of_second(scene, second))
    classes = np.zeros(labels.shape, np.uint8)
    names = list(TIMBRES)
    for number in sound.labels[second].objects:
        classes[labels == number] = names.index(scene.objects[number].shape) + 1
    return classes


def _check_second(scene: Scene, second: int) -> None:
    if not 0 <= second < scene.num_frames // scene.fps:
        got = f"second {second}"
        raise InputError("The scene has no such second.", expected=f"0 to {scene.num_frames // scene.fps - 1}", got=got)


def _views(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In which seconds a shape may sound: in view, bool [shapes, seconds]; off screen, bool [shapes, seconds].

    The third is which objects are in view in some frame of a second, bool [seconds, objects].
    """
    if scene.num_frames % scene.fps:
        raise InputError(
            "A sound track has labels for whole seconds.",
            expected=f"a multiple of {scene.fps} frames",
            got=f"{scene.num_frames} frames at {scene.fps} frames/s",
        )
    count = len(scene.objects)
    pixels_stn = np.stack(
        [
            np.bincount(scene.labels(index).ravel().astype(np.int64) + 1, minlength=count + 1)[1:]
            for index in range(scene.num_frames)
        ]
    ).reshape(-1, scene.fps, count)
    shown = np.asarray((pixels_stn >= IN_VIEW_PX).all(axis=1))
    hidden = np.asarray((pixels_stn == 0).all(axis=1))
    on = np.zeros((len(TIMBRES), len(shown)), bool)
    off = np.zeros_like(on)
    for row, shape in enumerate(TIMBRES):
        mine = [each.shape == shape for each in scene.objects]
        off[row] = hidden[:, mine].all(axis=1)
        on[row] = (shown | hidden)[:, mine].all(axis=1) & ~off[row]
    return on, off, ~hidden


def _plan(generator: np.random.Generator, on: np.ndarray, off: np.ndarray, present: set[str]) -> np.ndarray:
    """Which shapes sound in which seconds, bool [shapes, seconds]; something in view does, wherever it can."""
    sounding = np.zeros_like(on)
    rows = [int(row) for row in np.flatnonzero(on.any(axis=1))]
    for row in rows:
        for chance in _SPEAKS:
            if generator.random() < chance:
                sounding[row] |= _span(generator, on[row], longest=on.shape[1])
    if generator.random() < _OFF_SCREEN:
        absent = [row for row, shape in enumerate(TIMBRES) if shape not in present]
        away = [row for row, shape in enumerate(TIMBRES) if shape in present and off[row].any()]
        choice = away if away and (not absent or generator.random() < 0.8) else absent
        if choice:
            row = int(generator.choice(choice))
            sounding[row] |= _span(generator, off[row], longest=3)
    if generator.random() < _SILENCE:
        sounding &= ~_span(generator, np.ones(on.shape[1], bool), longest=2)
    if rows and not (sounding & on).any():
        row = int(generator.choice(rows))
        sounding[row] |= _span(generator, on[row], longest=on.shape[1])
    return sounding


def _span(generator: np.random.Generator, allowed: np.ndarray, longest: int) -> np.ndarray:
    """Some neighbouring seconds out of the allowed ones (at least one is), bool [seconds]."""
    inside = int(generator.choice(np.flatnonzero(allowed)))
    length = int(generator.integers(1, longest + 1))
    barred = np.array([-1, *np.flatnonzero(~allowed), len(allowed)])
    first = max(inside - int(generator.integers(length)), int(barred[barred < inside][-1]) + 1)
    chosen = np.zeros(len(allowed), bool)
    chosen[first : min(first + length, int(barred[barred > inside][0]))] = True
    return chosen


def _label(scene: Scene, sounding: np.ndarray, on: np.ndarray, seen: np.ndarray) -> SecondLabel:
    names = list(TIMBRES)
    shapes = tuple(shape for shape, yes in zip(names, sounding & on, strict=True) if yes)
    off_screen = tuple(shape for shape, yes in zip(names, sounding & ~on, strict=True) if yes)
    objects = tuple(n for n, each in enumerate(scene.objects) if each.shape in shapes and seen[n])
    return SecondLabel(objects, shapes, off_screen)


def _events(generator: np.random.Generator, scene: Scene, labels: Sequence[SecondLabel]) -> tuple[SoundEvent, ...]:
    """The voices behind the labels, by time; one runs on as long as the labels have it."""
    heard = [
        {(scene.objects[number].shape, number) for number in label.objects}
        | {(shape, _NO_OBJECT) for shape in label.off_screen}
        for label in labels
    ]
    events = []
    for shape, number in sorted(set().union(*heard)):
        sounds = np.array([False, *((shape, number) in voices for voices in heard), False])
        for start, end in np.flatnonzero(sounds[1:] != sounds[:-1]).reshape(-1, 2).tolist():
            each = None if number == _NO_OBJECT else number
            events.append(SoundEvent(shape, each, start, end, float(generator.uniform(*_LEVEL_DB))))
    return tuple(sorted(events, key=lambda event: event.start_s))


def _mix(generator: np.random.Generator, scene: Scene, events: Sequence[SoundEvent], samples: int) -> np.ndarray:
    """All voices together, float64 [samples]; an object keeps its pitch from one event to the next."""
    wave = np.zeros(samples)
    pitches: dict[tuple[str, int | None], float] = {}
    for event in events:
        voice = event.shape, event.object
        if voice not in pitches:
            colour, size = str(generator.choice(list(COLOURS))), str(generator.choice(list(SIZES)))
            if event.object is not None:
                colour, size = scene.objects[event.object].colour, scene.objects[event.object].size
            pitches[voice] = pitch_of(generator, colour, size)
        early, late = generator.uniform(0, _JITTER_S, 2)
        start, end = round((event.start_s + early) * RATE), round((event.end_s - late) * RATE)
        sound = play(generator, event.shape, end - start, pitches[voice])
        fade = np.minimum(np.arange(1, end - start + 1), np.arange(end - start, 0, -1)) / (_FADE_S * RATE)
        wave[start:end] += sound * np.minimum(fade, 1) * 10 ** (event.level_db / 20)
    return wave


def _noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Pink noise of RMS 1, float64 [samples]."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))
