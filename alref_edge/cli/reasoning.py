"""What `alref-edge run` and `eval` are told about the multimodal LLM that `--selector mllm` and `mixed` ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from alref_edge.cli.console import warn
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.mllm import MllmClient, Questioner
    from alref_edge.pipeline import AvsSettings, MllmSelector, MllmSoundSelector, Pipeline

LLM_SELECTORS = ("mllm", "mixed")

EndpointUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The LLM's server, its key in ALREF_MLLM_API_KEY; the one that `alref-edge mllm serve` runs if left out.",
    ),
]
AllowRemote: TypeAlias = Annotated[
    bool, typer.Option("--allow-remote", help="Take an --endpoint beyond this machine: images and prompts leave it.")
]
ModelName: TypeAlias = Annotated[
    str | None, typer.Option("--llm", metavar="NAME", help="Which of the models that --endpoint serves.")
]
TemplatesFolder: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Prompts of your own: pivot_frame.txt, ... in place of ours.")
]
PixelBudget: TypeAlias = Annotated[
    int | None,
    typer.Option("--llm-pixels", min=1, help="Most pixels of an image for the LLM; as its model allows if left out."),
]
InFlight: TypeAlias = Annotated[int, typer.Option(min=1, max=1024, help="Questions that the LLM has at once, at most.")]
Timeout: TypeAlias = Annotated[
    float, typer.Option("--llm-timeout", min=1, help="Seconds that one answer of the LLM may take.")
]
MaxTokens: TypeAlias = Annotated[
    int, typer.Option("--llm-max-tokens", min=1, help="Most tokens of an answer of the LLM, its thoughts included.")
]
Thinking: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--llm-thinking/--no-llm-thinking",
        help="Let a model that can think before it answers; give it tokens for that.",
    ),
]
AllowUnusable: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-unusable", help="With mllm: go on even if no answer at all of the LLM can be used."),
]
AskShort: TypeAlias = Annotated[
    bool,
    typer.Option("--ask-short", help="Ask the LLM about an image or a clip of up to 10 frames too; officially not."),
]
AnswerCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where answers are kept, so that an interrupted run goes on; in the user's cache."
    ),
]
NoAnswerCache: TypeAlias = Annotated[bool, typer.Option("--no-answer-cache", help="Keep no answers, and use none.")]
TranscriptFolder: TypeAlias = Annotated[
    Path | None, typer.Option("--transcript", metavar="FOLDER", help="Write down every question, image and answer.")
]


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """The options that make sense with an LLM only; see their help texts."""

    endpoint: str | None = None
    allow_remote: bool = False
    llm: str | None = None
    templates: Path | None = None
    llm_pixels: int | None = None
    in_flight: int = 32
    llm_timeout: float = 600.0
    llm_max_tokens: int = 1024
    llm_thinking: bool = False
    allow_unusable: bool = False
    answer_cache: Path | None = None
    no_answer_cache: bool = False
    transcript: Path | None = None
    ask_short: bool = False

    def refuse(self) -> None:
        """Raises InputError if any of them is there."""
        for each in fields(self):
            if getattr(self, each.name) != each.default:
                name = each.name.replace("_", "-")
                raise InputError(
                    f"--{name} is an option of --selector mllm and mixed.", mend="add the selector, or leave it out."
                )

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """A client of the server, which is closed at the end.

        Raises:
            InputError: options that make no sense.
            MllmError: no server runs, or it does not answer.
        """
        from alref_edge.mllm import ClientSettings, Endpoint, MllmClient, Questioner, Templates
        from alref_edge.mllm.serving.model_folder import pixel_budget
        from alref_edge.mllm.strips import PIXEL_BUDGET

        if self.no_answer_cache and self.answer_cache is not None:
            raise InputError("--answer-cache and --no-answer-cache exclude each other.", mend="leave out one.")
        if self.endpoint is None and (self.allow_remote or self.llm is not None):
            raise InputError("--allow-remote and --llm are options of --endpoint.", mend="add --endpoint URL.")
        templates = Templates.load(self.templates)
        endpoint = (
            Endpoint.running()
            if self.endpoint is None
            else Endpoint.at(self.endpoint, model=self.llm, allow_remote=self.allow_remote)
        )
        cache = None if self.no_answer_cache else self.answer_cache or _cache_folder()
        settings = ClientSettings(
            in_flight=self.in_flight,
            timeout_s=self.llm_timeout,
            max_tokens=self.llm_max_tokens,
            thinking=self.llm_thinking,
        )
        with MllmClient(
            endpoint, settings=settings, cache_dir=cache, transcript=self.transcript, notice=warn
        ) as client:
            root = client.root
            allowed = None if root is None else pixel_budget(root)
            most = min(PIXEL_BUDGET, allowed or PIXEL_BUDGET)
            budget = most if self.llm_pixels is None else self.llm_pixels
            yield Asking(client, Questioner(templates, budget), self.allow_unusable)


@dataclass(frozen=True)
class Asking:
    """A client, what makes its questions, and whether a run goes on without a usable answer."""

    client: MllmClient
    questioner: Questioner
    allow_unusable: bool = False

    def selector(self, name: str) -> MllmSelector:
        """The selector of pivots that is called "mllm" or "mixed"."""
        from alref_edge.pipeline import GroundingSelector, MllmSelector

        otherwise = GroundingSelector() if name == "mixed" else None
        return MllmSelector(self.client, self.questioner, otherwise, allow_unusable=self.allow_unusable)

    def sound_selector(self, name: str, pipeline: Pipeline, settings: AvsSettings) -> MllmSoundSelector:
        """The selector of what sounds that is called "mllm" or "mixed"."""
        from alref_edge.pipeline import MllmSoundSelector

        otherwise = pipeline.sound_selector(settings) if name == "mixed" else None
        return MllmSoundSelector(
            self.client,
            self.questioner,
            settings.categories,
            settings.max_categories,
            otherwise,
            settings.category_meanings,
            allow_unusable=self.allow_unusable,
        )


def _cache_folder() -> Path:
    """The user's, which others cannot enter: answers describe what is in videos."""
    from alref_edge.files import unwritable
    from alref_edge.mllm.endpoint import user_folder

    folder = user_folder("XDG_CACHE_HOME", ".cache") / "answers"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder
