"""A local multimodal LLM: what it is asked, and the server that answers. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ClientSettings": "transport",
    "ClientStats": "counting",
    "Endpoint": "endpoint",
    "MllmClient": "client",
    "MllmServer": "serving.server",
    "Question": "questions",
    "Questioner": "questions",
    "Reply": "answers",
    "ServerSettings": "serving.server",
    "Templates": "templates",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"alref_edge.mllm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'alref_edge.mllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
