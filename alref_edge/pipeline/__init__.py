"""The method, as a library call: a bundle, a video and sentences in; masks out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from alref_edge.bundle import Bundle
from alref_edge.errors import BundleError, InputError
from alref_edge.media import Limits, VideoSource, open_video
from alref_edge.pipeline.masks import MaskStore
from alref_edge.pipeline.measure import Progress, ProgressCallback, Watch
from alref_edge.pipeline.networks import NAMES, Networks
from alref_edge.pipeline.pivots import GroundingSelector, PivotSelector, Segment
from alref_edge.pipeline.replay import ReplaySelector
from alref_edge.pipeline.results import RunReport, RvosResult
from alref_edge.pipeline.rvos import Query, segment_video
from alref_edge.pipeline.settings import REF_DAVIS17, RvosSettings
from alref_edge.pipeline.tracking import FEATURE_CACHE_BYTES
from alref_edge.runtime import SessionOptions

__all__ = [
    "REF_DAVIS17",
    "GroundingSelector",
    "Pipeline",
    "PivotSelector",
    "Progress",
    "ReplaySelector",
    "RunReport",
    "RvosResult",
    "RvosSettings",
    "Segment",
]

_MOST_SENTENCES = 1000
_MOST_CHARACTERS = 4000


class Pipeline:
    """Networks of one bundle on one device, serving any number of videos. A context manager.

    Made by `from_bundle`. Graphs are loaded when first needed, and kept.
    """

    def __init__(self, networks: Networks, warnings: Sequence[str] = ()) -> None:
        self._networks = networks
        self._warnings = tuple(warnings)

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        *,
        precision: str = "float32",
        allow_fallback: bool = False,
        threads: int = 0,
    ) -> Pipeline:
        """Verify a bundle and make a pipeline of it.

        Args:
            path: the bundle's folder; None takes the one shipped with the package, a small one for generated scenes.
            device: "cpu", "cuda", "cuda:N", or "auto": CUDA where it works, else the CPU.
            precision: of the graphs: "float32", or another that the bundle has ("float16").
            allow_fallback: run on the CPU where the device asked for does not work, instead of an error.
            threads: CPU threads for one operator; 0 leaves the choice to the backend.

        Raises:
            BundleError: the bundle is missing, altered or incomplete, or has no graphs of that precision.
            ProviderError: the device does not work here.
        """
        from alref_edge.runtime.providers import resolve

        options = SessionOptions(threads=threads, allow_fallback=allow_fallback)
        placement = resolve(device, allow_fallback=allow_fallback)
        fell_back = device.startswith("cuda") and placement.device == "cpu"
        warnings = (
            [f"fell back: {device} was asked for and does not work here, the CPU runs instead"] if fell_back else []
        )
        bundle = Bundle.open(None if path is None else Path(path))
        for name in bundle.manifest.components.keys() & NAMES:
            bundle.component(name, precision)
        return cls(Networks(bundle, device, options, precision), warnings)

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self._networks.bundle

    @property
    def precision(self) -> str:
        """The precision of the graphs."""
        return self._networks.precision

    @property
    def notice(self) -> str | None:
        """What a user of the shipped bundle should know, in a line; None for any other bundle, or one without notes."""
        manifest = self.bundle.manifest
        if not self.bundle.is_shipped or not manifest.trained or not manifest.notes:
            return None
        return f'using the shipped bundle "{manifest.name}": {manifest.notes}'

    @property
    def warnings(self) -> tuple[str, ...]:
        """What holds for every result of this pipeline: weights that are not trained, another device than asked for."""
        if self.bundle.manifest.trained:
            return self._warnings
        return (
            *self._warnings,
            f"untrained: the bundle {self.bundle.manifest.name!r} has random weights, its masks mean nothing",
        )

    @property
    def settings(self) -> RvosSettings:
        """The numbers of the method that the bundle wants.

        Raises:
            BundleError: they make no sense.
        """
        try:
            return RvosSettings.from_mapping(self.bundle.manifest.defaults.get("rvos", {}))
        except (InputError, TypeError, AttributeError) as error:
            raise BundleError(
                "The bundle's default settings make no sense.", got=str(error), mend="export the bundle again."
            ) from error

    def rvos(
        self,
        video: str | os.PathLike[str] | VideoSource,
        sentences: str | Sequence[str],
        *,
        selector: PivotSelector | None = None,
        settings: RvosSettings | None = None,
        limits: Limits | None = None,
        progress: ProgressCallback | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        feature_cache_bytes: int = FEATURE_CACHE_BYTES,
    ) -> Iterator[RvosResult]:
        """Segment, in a video, what each sentence refers to.

        The sentences share the work: give them together. Everything that can be checked is checked before this returns;
        the work begins with the first `next`.

        Args:
            video: a file, a folder of frames, an image, or a source that `open_video` gave.
            sentences: one or many.
            selector: picks the pivots; by grounding score if None.
            settings: numbers of the method; the bundle's defaults if None.
            limits: caps on the video (those of an opened source hold as they are).
            progress: called after every frame of every stage.
            spill_dir: where masks wait in an unnamed temporary file; None: TMPDIR, /var/tmp, or the system's choice.
            feature_cache_bytes: see `ObjectTracking`.

        Yields:
            One result a sentence, in their order. Masks stay readable until the result is closed or forgotten.

        Raises:
            InputError: a sentence, pivot or setting makes no sense.
            MediaError: the video cannot be read or is over a limit.
            BundleError, EngineError, ProviderError, CapacityError: see there.
        """
        texts = _checked_sentences(sentences)
        settings = settings or self.settings
        selector = selector or GroundingSelector()
        queries = []
        for text in texts:
            given = selector.given(text)
            queries.append(Query(text, None if given is None else tuple(given)))
        source = video if isinstance(video, VideoSource) else open_video(video, limits)
        return self._run(source, queries, selector, settings, Watch(progress=progress), spill_dir, feature_cache_bytes)

    def _run(
        self,
        source: VideoSource,
        queries: list[Query],
        selector: PivotSelector,
        settings: RvosSettings,
        watch: Watch,
        spill_dir: str | os.PathLike[str] | None,
        cache_bytes: int,
    ) -> Iterator[RvosResult]:
        info = source.info
        folder = None if spill_dir is None else os.fspath(spill_dir)
        masks = MaskStore(len(queries), source.frame_count(), info.height, info.width, folder)
        segment_video(self._networks, source, queries, selector, settings, watch, masks, cache_bytes)
        report = RunReport.of(self._networks, source, selector.name, settings, watch)
        general = (*self.warnings, *source.warnings)
        for number, query in enumerate(queries):
            yield RvosResult.of(number, query, general, report, masks)

    def close(self) -> None:
        """Close every session; closing twice does nothing. Results stay readable."""
        self._networks.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_sentences(sentences: str | Sequence[str]) -> list[str]:
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    if not texts or len(texts) > _MOST_SENTENCES:
        raise InputError(
            "The number of sentences is out of range.", expected=f"1 to {_MOST_SENTENCES}", got=len(texts),
            mend="give at least one with --text.",
        )  # fmt: skip
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError("A sentence is empty.", got=repr(text), mend="say in words what to look for.")
        if len(text) > _MOST_CHARACTERS:
            raise InputError(
                "A sentence is too long.",
                expected=f"at most {_MOST_CHARACTERS} characters",
                got=f"{len(text)} characters",
                mend="shorten it, or split it into several sentences.",
            )
    return [text.strip() for text in texts]
