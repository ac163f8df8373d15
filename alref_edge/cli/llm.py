"""What commands are told about the multimodal LLM that `--selector mllm` and `mixed` ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alref_edge.cli.console import warn
from alref_edge.cli.grouping import LLM
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.mllm import MllmClient, Questioner
    from alref_edge.pipeline import (
        AvsSettings,
        GroundingSelector,
        GroundingSoundSelector,
        MllmSelector,
        MllmSoundSelector,
    )


@dataclass(frozen=True, kw_only=True)
class LlmOptions:
    """The options that make sense with an LLM only."""

    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=LLM,
            help="The LLM's server, its key in ALREF_MLLM_API_KEY; the one that `alref-edge mllm serve` runs if left "
            "out.",
        ),
    ] = None
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            rich_help_panel=LLM,
            help="Take an --endpoint beyond this machine: images and prompts leave it.",
        ),
    ] = False
    llm: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=LLM, help="Which of the models that --endpoint serves."),
    ] = None
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", rich_help_panel=LLM, help="Prompts of your own: pivot_frame.txt, ... in place of ours."
        ),
    ] = None
    llm_pixels: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=LLM, help="Most pixels of an image for the LLM; as its model allows if left out."
        ),
    ] = None
    in_flight: Annotated[
        int,
        typer.Option(min=1, max=1024, rich_help_panel=LLM, help="Questions that the LLM has at once, at most."),
    ] = 32
    llm_timeout: Annotated[
        float, typer.Option(min=1, rich_help_panel=LLM, help="Seconds that one answer of the LLM may take.")
    ] = 600.0
    llm_max_tokens: Annotated[
        int,
        typer.Option(min=1, rich_help_panel=LLM, help="Most tokens of an answer of the LLM, its thoughts included."),
    ] = 1024
    llm_thinking: Annotated[
        bool,
        typer.Option(
            rich_help_panel=LLM, help="Let a model that can think before it answers; give it tokens for that."
        ),
    ] = False
    allow_unusable: Annotated[
        bool,
        typer.Option(
            "--allow-unusable",
            rich_help_panel=LLM,
            help="With mllm: go on even if no answer at all of the LLM can be used.",
        ),
    ] = False
    answer_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=LLM,
            help="Where answers are kept, so that an interrupted run goes on; in the user's cache.",
        ),
    ] = None
    no_answer_cache: Annotated[
        bool, typer.Option("--no-answer-cache", rich_help_panel=LLM, help="Keep no answers, and use none.")
    ] = False
    transcript: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=LLM, help="Write down every question, image and answer."),
    ] = None

    def refuse(self, selectors: Sequence[str]) -> None:
        """Raises InputError if any of them is there, though none of the selectors that ask was chosen."""
        for each in fields(self):
            if getattr(self, each.name) != each.default:
                name = each.name.replace("_", "-")
                raise InputError(
                    f"--{name} is an option of --selector {' and '.join(selectors)}.",
                    mend="add the selector, or leave it out.",
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

    def pivots(self, otherwise: GroundingSelector | None = None) -> MllmSelector:
        """What picks pivots; `otherwise` does where the LLM picks none."""
        from alref_edge.pipeline import MllmSelector

        return MllmSelector(self.client, self.questioner, otherwise, allow_unusable=self.allow_unusable)

    def sounds(self, settings: AvsSettings, otherwise: GroundingSoundSelector | None = None) -> MllmSoundSelector:
        """What decides about sounds; `otherwise` does where the LLM gives no usable answer."""
        from alref_edge.pipeline import MllmSoundSelector

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
