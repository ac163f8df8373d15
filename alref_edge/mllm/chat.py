"""A question as a chat completion: the request that puts it, and what is made of the response."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alref_edge.errors import MllmError
from alref_edge.mllm.answers import EMPTY, OUT_OF_PLACE, Reply, UnusableError, read_answer, without_thoughts
from alref_edge.mllm.endpoint import Endpoint
from alref_edge.mllm.thoughts import thinking_switch
from alref_edge.mllm.transport import ClientSettings, Received, Refused

if TYPE_CHECKING:
    from alref_edge.mllm.questions import Question

FORMS = ("json_schema", "json_object", "none")
"""How a server is told the form of an answer, best first: not every one knows each."""

_MOST_QUOTED = 4000
_REFUSING = frozenset({400, 415, 422, 500, 501})
_FORM = re.compile(r"response_?format|json|schema|grammar|guided|structured", re.IGNORECASE)
_SWITCH = re.compile(r"chat_?template|kwargs|thinking", re.IGNORECASE)
_EITHER = re.compile(
    r"^(no message|bad request|unprocessable entity|internal server error|not implemented|invalid request)\W*$"
    r"|un(known|recogni[sz]ed|expected|supported)|not (supported|permitted|allowed|implemented)|extra|additional prop",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Manner:
    """What a request says of the answer besides the question; a server that refuses one is asked in another.

    Attributes:
        form: one of `FORMS`; all but the first put the schema into the prompt.
        switches: whether thinking is switched on or off by way of the chat template.
    """

    form: str = FORMS[0]
    switches: bool = True

    def others(self, refused: Refused) -> Iterator[Manner]:
        """The manners to be tried after this one is refused, the closest first; none where the refusal is about
        something else, such as the length of the question."""
        if refused.status not in _REFUSING or refused.too_long:
            return
        about_switch, about_form = _SWITCH.search(refused.said), _FORM.search(refused.said)
        if not (about_switch or about_form):
            about_switch = about_form = _EITHER.search(refused.said)
        manner = self
        if about_switch and self.switches:
            manner = replace(manner, switches=False)
            yield manner
        if about_form:
            for form in FORMS[FORMS.index(self.form) + 1 :]:
                yield replace(manner, form=form)


@dataclass(frozen=True)
class Attempt:
    """One answer of the LLM.

    Attributes:
        text: what it wrote.
        answer: what the question's `parse` made of it; None if there is a problem.
        problem: what is wrong with it, in words for the LLM; None if nothing is.
        reason: the same for a person, equal for all of its kind.
        thoughts: what the response holds of them in a field of their own; "" without one.
        received: the response; None if it was too long to be read, or the answer is of the cache.
    """

    text: str
    answer: Any = None
    problem: str | None = None
    reason: str | None = None
    thoughts: str = ""
    received: Received | None = None


def request(
    model: str, question: Question[Any], settings: ClientSettings, manner: Manner, wrong: Attempt | None = None
) -> dict[str, Any]:
    """The body of a request: one user message, the image before the prompt.

    Args:
        model: name of the served model.
        question: what is asked.
        settings: of the sampling.
        manner: how the form of the answer is told.
        wrong: an unusable answer; with it, the request is the repair attempt, and the answer and what is wrong with it
            are further messages.
    """
    image = f"data:image/png;base64,{base64.b64encode(question.image_png).decode('ascii')}"
    prompt = question.prompt
    if manner.form != "json_schema":
        prompt += f"\n\nAnswer with nothing but one JSON object of this schema: {json.dumps(question.schema)}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if wrong is not None:
        repair = (
            f"That cannot be used: {wrong.problem}. Answer again, with nothing but one JSON object of this schema: "
            f"{json.dumps(question.schema)}"
        )
        messages += [
            {"role": "assistant", "content": without_thoughts(wrong.text)[:_MOST_QUOTED].strip() or "(no answer)"},
            {"role": "user", "content": repair},
        ]
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }
    if manner.form != "none":
        body["response_format"] = {"type": manner.form}
    if manner.form == "json_schema":
        form = {"name": question.template, "schema": question.schema, "strict": True}
        body["response_format"]["json_schema"] = form
    return {**body, **(thinking_switch(settings.thinking) if manner.switches else {})}


def judged(received: Received, question: Question[Any], settings: ClientSettings, endpoint: Endpoint) -> Attempt:
    """What a response answers, held against the question.

    Servers that part thoughts from answers take the one for the other at times: where there is no answer at all, what
    stands among the thoughts counts, if the whole of it is one.

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
    message = _of(choice.get("message"))
    text = _text(message.get("content"))
    thoughts = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    misplaced = thoughts.strip() if not text.strip() else ""
    try:
        if misplaced and _is_object(misplaced):
            text = misplaced
        answer = question.parse(read_answer(text, question.schema))
        return Attempt(text, answer, thoughts=thoughts, received=received)
    except ValueError as error:
        unusable = error if isinstance(error, UnusableError) else UnusableError(str(error))
        problem, reason = str(unusable), unusable.reason
        if choice.get("finish_reason") == "length":
            problem = "the answer was too long and is cut off; keep every text short"
            reason = (
                f"an answer cut off at its {settings.max_tokens} tokens (finish_reason: length); allow more of them, "
                "with --llm-max-tokens"
            )
        elif misplaced and reason == EMPTY:
            reason = OUT_OF_PLACE
        return Attempt(text, problem=problem, reason=reason, thoughts=thoughts, received=received)


def reply_of(attempts: Sequence[Attempt]) -> Reply[Any]:
    """The reply to a question after its attempts, one or two."""
    last = attempts[-1]
    received = [each.received for each in attempts if each.received is not None]
    usages = [_of(each.value.get("usage")) for each in received]
    return Reply(
        last.answer,
        last.text,
        problem=last.problem,
        reason=last.reason,
        repaired=len(attempts) > 1 and last.problem is None,
        retries=sum(each.retries for each in received),
        prompt_tokens=sum(_count(usage.get("prompt_tokens")) for usage in usages),
        completion_tokens=sum(_count(usage.get("completion_tokens")) for usage in usages),
        seconds=sum(each.seconds for each in received),
    )


def _of(value: object) -> Mapping[str, Any]:
    """A JSON value as an object; an empty one if it is something else."""
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """A text of a message; "" where it has none."""
    return value if isinstance(value, str) else ""


def _is_object(text: str) -> bool:
    """Whether the whole of a text is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _count(value: object) -> int:
    """A number of tokens; 0 where the server tells none."""
    return value if type(value) is int and value > 0 else 0
