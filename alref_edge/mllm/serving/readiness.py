"""Whether a server can do the job, found out by letting it do one."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from alref_edge.mllm.answers import read_answer
from alref_edge.mllm.thoughts import thinking_switch

if TYPE_CHECKING:
    import httpx

    from alref_edge.mllm.endpoint import Endpoint

_SIDE = 112
_TOKENS = 64
_SCHEMA = {
    "type": "object",
    "properties": {"ready": {"type": "boolean"}},
    "required": ["ready"],
    "additionalProperties": False,
}


def is_up(client: httpx.Client, endpoint: Endpoint) -> bool:
    """Whether the server takes requests yet. Raises MllmError if another process listens in its place."""
    import httpx

    try:
        return client.get(f"{endpoint.http.removesuffix('/v1')}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def first_answer(client: httpx.Client, endpoint: Endpoint, timeout_s: float) -> str | None:
    """Ask about an image, for an answer within a JSON schema, with the key.

    Returns:
        What is wrong with the answer; None if nothing is.

    Raises:
        httpx.TransportError: there is none.
    """
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    url, question = f"{endpoint.http}/chat/completions", _question(endpoint.model)
    answer = client.post(url, json={**question, **thinking_switch(False)}, headers=headers, timeout=timeout_s)
    if answer.status_code == 400 and "chat_template" in answer.text:  # of a tokenizer without templates
        answer = client.post(url, json=question, headers=headers, timeout=timeout_s)
    try:
        message = answer.json()["choices"][0]["message"] if answer.status_code == 200 else {}
        texts = [message.get(field) for field in ("content", "reasoning_content", "reasoning")]
        if read_answer(next((text for text in texts if text), ""), _SCHEMA):
            return None
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:300]}"


def _question(model: str | None) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (90, 140, 60)).save(buffer, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Are you ready?"}]
    schema = {"name": "readiness", "strict": True, "schema": _SCHEMA}
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": _TOKENS,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
