"""A headless Chromium that opens one page and tells what happened. Not a test module.

It is spoken to through two pipes (`--remote-debugging-pipe`): JSON messages of the DevTools protocol, each ended by a
zero byte. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--mute-audio", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_S = 120


@dataclass
class Page:
    """An open page.

    Attributes:
        requests: addresses that were asked for, data URIs left out.
        complaints: what the browser wrote to its console, errors and warnings alike.
    """

    browser: _Browser
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, parameters, self)

    def open(self, address: str) -> None:
        """Load an address and wait until everything on it is there."""
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        self.browser.wait("Page.loadEventFired", self)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def screenshot(self, path: Path, width: int, *, dark: bool = False) -> None:
        """The whole page as a PNG file, at a width."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width)
        height = min(int(self.evaluate("document.documentElement.scrollHeight")), 8000)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def resize(self, width: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )

    def note(self, event: dict[str, Any]) -> None:
        parameters = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                address = parameters["request"]["url"]
                if not address.startswith("data:"):
                    self.requests.append(address)
            case "Log.entryAdded":
                self.complaints.append(f"{parameters['entry']['level']}: {parameters['entry']['text']}")
            case "Runtime.consoleAPICalled":
                self.complaints.append(f"{parameters['type']}: {parameters['args']}")
            case "Runtime.exceptionThrown":
                self.complaints.append(f"exception: {parameters['exceptionDetails']['text']}")


class _Browser:
    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading = writing, reading
        self._count = 0
        self._rest = b""

    def call(self, method: str, parameters: dict[str, Any] | None = None, page: Page | None = None) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters or {}}
        if page is not None:
            message["sessionId"] = page.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]
        for answer in self._messages(page):
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
        raise RuntimeError(f"{method}: no answer")

    def wait(self, event: str, page: Page) -> None:
        for message in self._messages(page):
            if message.get("method") == event:
                return

    def _messages(self, page: Page | None) -> Iterator[dict[str, Any]]:
        """Messages as they come; events of a page are noted on it."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(text)
                if page is not None and "method" in message and message.get("sessionId") == page.session:
                    page.note(message)
                yield message
            if not select.select([self._reading], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium says nothing for {_PATIENCE_S} s")
            data = os.read(self._reading, 1 << 20)
            if not data:
                raise RuntimeError("Chromium is gone")
            self._rest += data


@contextmanager
def new_page(profile: Path) -> Iterator[Page]:
    """An empty page in a browser of its own, which ends with the block.

    Args:
        profile: an empty folder.
    """
    assert COMMAND is not None
    to_read, writing = os.pipe()
    reading, to_write = os.pipe()
    # Chromium reads from 3 and writes to 4: what is moved there must lie above.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)]
    os.close(to_read)
    os.close(to_write)
    actions = [
        (os.POSIX_SPAWN_DUP2, ends[0], 3),
        (os.POSIX_SPAWN_DUP2, ends[1], 4),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    arguments = [COMMAND, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(COMMAND, arguments, dict(os.environ), file_actions=actions, setpgroup=0)
    for end in ends:
        os.close(end)
    try:
        browser = _Browser(writing, reading)
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        yield Page(browser, session)
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(writing)
        os.close(reading)
