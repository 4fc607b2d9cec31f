"""A real browser for tests: Chromium without a window, driven by the DevTools protocol through two pipes.

::

    with Browser() as browser:
        page = browser.page(width=360, scheme="dark")
        page.go("http://127.0.0.1:8000/")
        page.until("document.querySelector('h1')")
        page.press("Tab", "Enter")
        assert page.run("document.title") == "Stores"
        assert page.problems == []
        other = page.tab()              # of the same visitor: storage, locks and channels are shared

It is ``CACHESYNC_CHROMIUM``, or the system's, or one that `debian` unpacks. The browser ends with its pipes, and so with this process.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Self

from support.debian import CHROMIUM

LONG: Final = 20.0
"""Seconds after which something that should have happened has not."""
INSTALLED: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
OPTIONS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it would need root, or more rights than containers have
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)
# What a key press says besides its name: its number on Windows, which Chromium goes by, and the text it writes.
KEYS: Final = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
    " ": (32, " "),
}
SHIFT: Final = 8

Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")


class BrowserError(Exception):
    """The browser, or a script in a page of it, failed."""


def chromium() -> str:
    """The path of a Chromium: one that is installed, or one that is unpacked now. Raises `UnavailableError`, which says what is missing."""
    named = os.environ.get("CACHESYNC_CHROMIUM")
    return named or next(filter(None, map(shutil.which, INSTALLED)), None) or str(CHROMIUM.made())


class Browser:
    """One Chromium. A context manager: it ends on exit, with all its pages."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cachesync-browser-")
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._visitors: list[str] = []
        self._changed = threading.Condition()
        self._is_over = False
        self._log = Path(self._folder, "browser.log")
        self._pid, self._orders, self._news = _spawned(
            [chromium(), *OPTIONS, f"--user-data-dir={self._folder}/profile", "about:blank"], self._log
        )
        threading.Thread(target=self._read, name="browser", daemon=True).start()

    def page(self, *, width: int = 1280, height: int = 900, scheme: Scheme = "light") -> Page:
        """An empty page of a new visitor."""
        visitor = self.send("Target.createBrowserContext")["browserContextId"]
        self._visitors.append(visitor)
        return self.tab(visitor, width=width, height=height, scheme=scheme)

    def tab(self, visitor: str, *, width: int, height: int, scheme: Scheme) -> Page:
        """An empty page of a visitor."""
        target = self.send("Target.createTarget", url="about:blank", browserContextId=visitor)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target, visitor, width, height, scheme)
        page.begin()
        return page

    def forget(self) -> None:
        """Close all pages, and forget what their visitors had."""
        while self._visitors:
            self.send("Target.disposeBrowserContext", browserContextId=self._visitors.pop())
        self._pages.clear()

    def send(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        """Give an order of the DevTools protocol, and return the answer. Raises `BrowserError`."""
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        with self._changed:
            if self._is_over:
                raise BrowserError(f"{method}: the browser is gone")
            self._orders.write(json.dumps(order).encode() + b"\0")
        answer = self.wait(lambda: self._answers.pop(number, None), method)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, find: Callable[[], Any], what: str) -> Any:
        """What ``find`` returns, as soon as that is something; it is asked whenever the browser says anything."""
        with self._changed:
            found = self._changed.wait_for(lambda: find() or self._is_over, LONG)
        if found is True and self._is_over:
            raise BrowserError(f"{what}: the browser is gone\n{self._log.read_text(errors='replace')[-2000:]}")
        if not found:
            raise BrowserError(f"{what} did not happen within {LONG:g} s")
        return found

    def close(self) -> None:
        """End it, and wait until it has ended."""
        if self._pid:
            self._orders.close()
            os.waitpid(self._pid, 0)
            self._pid = 0
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        rest = b""
        with self._news:
            while piece := self._news.read1():
                *messages, rest = (rest + piece).split(b"\0")
                with self._changed:
                    for text in messages:
                        self._take(json.loads(text))
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
            page.hear(message["method"], message["params"])


class Page:
    """One tab. ``problems`` are errors and warnings of its console, ``requests`` the URLs that it has asked for."""

    def __init__(self, browser: Browser, session: str, target: str, visitor: str, width: int, height: int, scheme: Scheme) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._browser = browser
        self._session = session
        self._target = target
        self._visitor = visitor
        self._size = width, height
        self._scheme: Scheme = scheme
        self._loads = 0

    def begin(self) -> None:
        """Listen to it, and make it what was asked for."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # several tabs, and each believes it is looked at
        self.resize(*self._size)
        self.prefer(self._scheme)

    def tab(self) -> Page:
        """Another tab of the same visitor."""
        width, height = self._size
        return self._browser.tab(self._visitor, width=width, height=height, scheme=self._scheme)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order of the DevTools protocol."""
        return self._browser.send(method, self._session, **parameters)

    def hear(self, method: str, said: dict[str, Any]) -> None:
        """Take note of what the browser says about this page."""
        match method:
            case "Page.loadEventFired":
                self._loads += 1
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if said["type"] in {"error", "warning", "assert"}:
                self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in {"error", "warning"}:
                self.problems.append(f"{said['entry']['text']} {said['entry'].get('url', '')}".strip())
            case _:
                pass

    # -- what a visitor does

    def go(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        loads = self._loads
        problem = self.send("Page.navigate", url=url).get("errorText")
        if problem:
            raise BrowserError(f"{url}: {problem}")
        self._browser.wait(lambda: self._loads > loads, f"loading {url}")

    def before_each(self, script: str) -> None:
        """Run a script in every document that is opened from now on, before its own."""
        self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after the other: ``Tab``, ``Enter``, ``Escape``, arrows, or a character."""
        for key in keys:
            number, text = KEYS.get(key, (ord(key.upper()) if len(key) == 1 else 0, key))
            about: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": number, "modifiers": SHIFT if shift else 0}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        """Put a text where the cursor is, as an input method or the clipboard does."""
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Give the page another size, in CSS pixels; ``scale`` is how many of the screen's each of them has in each direction."""
        self._size = width, height
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def prefer(self, scheme: Scheme) -> None:
        """What the visitor's system prefers."""
        self._scheme = scheme
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def close(self) -> None:
        """Close the tab."""
        self._browser.send("Target.closeTarget", targetId=self._target)

    # -- what a test sees

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it holds. Raises `BrowserError` with what the script raised."""
        said = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        if problem := said.get("exceptionDetails"):
            raise BrowserError(problem.get("exception", {}).get("description", problem["text"]))
        return said["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true, or something; returns it, ``True`` for an element."""
        deadline = time.monotonic() + LONG
        while not (found := self.run(f"(async found => (await found) instanceof Node || found)({script})")):
            if time.monotonic() > deadline:
                raise BrowserError(f"{script} did not come true within {LONG:g} s; the page says\n{self.run('document.body.innerText')}")
            time.sleep(0.02)
        return found

    def picture(self, *, whole: bool = False) -> bytes:
        """What it looks like, as a PNG: what fits into the window, or the ``whole`` page."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])


def _spawned(command: list[str], log: Path) -> tuple[int, Any, Any]:
    """Start the browser in a session of its own; it reads orders from descriptor 3, and writes to 4. Returns its id and our ends."""
    orders_out, orders_in = _pipe()
    news_out, news_in = _pipe()
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    places = ((output, 1), (output, 2), (orders_out, 3), (news_in, 4))  # in this order: output may be 3 or 4 itself
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in places]
    pid = os.posix_spawn(command[0], command, dict(os.environ), file_actions=actions, setsid=True)
    for number in (orders_out, news_in, output):
        os.close(number)
    return pid, os.fdopen(orders_in, "wb", buffering=0), os.fdopen(news_out, "rb")


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none of those that a browser knows: those would not outlive its start."""
    low = os.pipe()
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in low]
    for number in low:
        os.close(number)
    return high[0], high[1]
