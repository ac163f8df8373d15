"""A question as a chat completion: the request that puts it, and what is made of the response."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alref_edge.errors import MllmError
from alref_edge.mllm.answers import Reply, read_answer
from alref_edge.mllm.endpoint import Endpoint
from alref_edge.mllm.transport import ClientSettings, Received

if TYPE_CHECKING:
    from alref_edge.mllm.questions import Question

_MOST_QUOTED = 4000


@dataclass(frozen=True)
class Attempt:
    """One answer of the LLM.

    Attributes:
        text: what it wrote.
        answer: what the question's `parse` made of it; None if there is a problem.
        problem: what is wrong with it, in words for the LLM; None if nothing is.
        received: the response; None if it was too long to be read, or the answer is of the cache.
    """

    text: str
    answer: Any = None
    problem: str | None = None
    received: Received | None = None


def request(
    model: str, question: Question[Any], settings: ClientSettings, wrong: Attempt | None = None
) -> dict[str, Any]:
    """The body of a request: one user message, the image before the prompt.

    Args:
        model: name of the served model.
        question: what is asked.
        settings: of the sampling.
        wrong: an unusable answer; with it, the request is the repair attempt, and the answer and what is wrong with it
            are further messages.
    """
    image = f"data:image/png;base64,{base64.b64encode(question.image_png).decode('ascii')}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question.prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if wrong is not None:
        repair = (
            f"That cannot be used: {wrong.problem}. Answer again, with nothing but one JSON object of this schema: "
            f"{json.dumps(question.schema)}"
        )
        messages += [
            {"role": "assistant", "content": wrong.text[:_MOST_QUOTED].strip() or "(no answer)"},
            {"role": "user", "content": repair},
        ]
    form = {"name": question.template, "schema": question.schema, "strict": True}
    return {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def judged(received: Received, question: Question[Any], endpoint: Endpoint) -> Attempt:
    """What a response answers, held against the question.

    Raises:
        MllmError: it is no chat completion.
    """
    choices = received.value.get("choices")
    if not isinstance(choices, list):
        raise MllmError(
            f"{endpoint.url} is not an OpenAI-compatible API: what it sent is no chat completion.",
            mend="check the URL, and the server's log.",
        )
    choice = _of(choices[0] if choices else None)
    content = _of(choice.get("message")).get("content")
    text = content if isinstance(content, str) else ""
    try:
        return Attempt(text, question.parse(read_answer(text, question.schema)), received=received)
    except ValueError as error:
        cut = choice.get("finish_reason") == "length"
        problem = "the answer was too long and is cut off; keep every text short" if cut else str(error)
        return Attempt(text, problem=problem, received=received)


def reply_of(attempts: Sequence[Attempt]) -> Reply[Any]:
    """The reply to a question after its attempts, one or two."""
    last = attempts[-1]
    received = [each.received for each in attempts if each.received is not None]
    usages = [_of(each.value.get("usage")) for each in received]
    return Reply(
        last.answer,
        last.text,
        problem=last.problem,
        repaired=len(attempts) > 1 and last.problem is None,
        retries=sum(each.retries for each in received),
        prompt_tokens=sum(_count(usage.get("prompt_tokens")) for usage in usages),
        completion_tokens=sum(_count(usage.get("completion_tokens")) for usage in usages),
        seconds=sum(each.seconds for each in received),
    )


def _of(value: object) -> Mapping[str, Any]:
    """A JSON value as an object; an empty one if it is something else."""
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    """A number of tokens; 0 where the server tells none."""
    return value if type(value) is int and value > 0 else 0
