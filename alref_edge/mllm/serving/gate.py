"""The only doors that are open: loaded by the server itself, from a copy, with the standard library alone.

vLLM's server has many more addresses than the job needs, some of which ask for no key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

OPEN = {("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")}

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Any, Send], Awaitable[None]]


class Gate:
    """ASGI middleware that answers 404 to everything but what is in `OPEN`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope.get("method"), scope["path"]) in OPEN:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})
