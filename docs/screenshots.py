"""Pictures of the dashboard for the documentation: ``python docs/screenshots.py`` writes ``images/dashboard-*.png``.

A real application under real traffic: the demonstration's stores on two workers of uvicorn, with the admin app mounted at ``/admin/cache``,
a Valkey, some hundred requests a second, and now and then a change. A Chromium looks at it for a minute and a half.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

DOCS: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent / "tests"), str(DOCS.parent)]

from cachesync import Cache  # noqa: E402 - the paths come first
from cachesync.admin import Admin  # noqa: E402
from cachesync.demo.data import Chain, airports, build  # noqa: E402
from cachesync.demo.processes import scratch_folder, valkey  # noqa: E402
from cachesync.demo.worker import POLICIES, Dashboard  # noqa: E402
from support.browser import SCHEMES, Browser, Page  # noqa: E402
from support.servers import free_port  # noqa: E402

SECONDS: Final = 95
CALLERS: Final = 4
PAUSE: Final = 0.03
"""Seconds between two requests of one caller, on average."""
CHANGES: Final = (
    {"patterns": ["stores:CGK", "stores:CGK:*"]},
    {"patterns": ["stores:SIN", "stores:SIN:*"]},
    {"tags": ["stores"], "soft": True},
    {"patterns": ["stores:list:*"], "soft": True},
    {"patterns": ["analytics:overview"]},
    {"patterns": ["stores:*"]},
)


# --- the application --------------------------------------------------------------------------------------------------------------


def application() -> Starlette:
    """One worker: what uvicorn serves. ``STORES`` names the database."""
    cache = Cache.from_file(POLICIES)
    dashboard = Dashboard(cache, Chain(os.environ["STORES"]))

    async def answer(request: Request) -> Response:
        kind, name = request.path_params["kind"], request.path_params["name"]
        function: Any = {"page": dashboard.store, "nearby": dashboard.nearby, "list": dashboard.stores, "overview": dashboard.overview}[
            kind
        ]
        value = await run_in_threadpool(function, *([] if kind == "overview" else [name]))
        return Response(msgspec.json.encode(value), media_type="application/json")

    async def sync(request: Request) -> Response:
        body = await request.json()
        return Response(msgspec.json.encode(await run_in_threadpool(dashboard.sync, body["code"], body["name"])))

    routes = [
        Route("/sync", sync, methods=["POST"]),
        Route("/{kind}/{name}", answer),
        Mount("/admin/cache", Admin(cache, lambda _: "demo")),
    ]
    return Starlette(routes=routes)


@contextmanager
def served(port: int) -> Generator[None]:
    """Two workers. Connections are not kept, so that requests reach both."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "screenshots:application", "--app-dir", str(DOCS), "--workers", "2"]
    command += ["--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "0"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while ask(port, "GET", "/overview/-") is None:
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def ask(port: int, method: str, path: str, body: object = None) -> bytes | None:
    """An answer, ``None`` where there is none."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError, HTTPException):
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().read()
    return None


# --- the traffic ------------------------------------------------------------------------------------------------------------------


def call(port: int, codes: list[str], seed: int, is_over: threading.Event) -> None:
    """One caller: some stores are asked for far more often than others."""
    chance = random.Random(seed)
    while not is_over.wait(chance.expovariate(1 / PAUSE)):
        code = codes[min(int(chance.paretovariate(0.7)) - 1, len(codes) - 1)]
        kind = chance.choices(["page", "nearby", "list", "overview"], [55, 20, 15, 10])[0]
        name = {"list": chance.choice(["ID", "SG", "NL", "US", "DE", "BR"]), "overview": "-"}.get(kind, code)
        ask(port, "GET", f"/{kind}/{quote(name)}")


def change(port: int, is_over: threading.Event) -> None:
    """An administrator: changes of all kinds."""
    chance = random.Random(5)
    for number in range(1, 1_000):
        if is_over.wait(chance.uniform(3, 9)):
            return
        if number % 3 == 0:
            ask(port, "POST", "/sync", {"code": chance.choice(["CGK", "DPS", "AMS"]), "name": f"Renamed {number} times"})
        else:
            ask(port, "POST", "/admin/cache/invalidate", chance.choice(CHANGES))


# --- the pictures -----------------------------------------------------------------------------------------------------------------


def look(page: Page, url: str) -> None:
    """Open the dashboard."""
    page.send("Emulation.setScrollbarsHidden", hidden=True)
    page.go(url)
    page.until("document.querySelector('#policies tbody th')")


def use(page: Page) -> None:
    """Look at a key, and try an invalidation."""
    page.run("$('patterns').value = 'stores:CGK\\nstores:CGK:*'; $('dry').click()")
    page.until("$('told').textContent.includes('Dry run')")
    for _ in range(20):
        page.run("$('key').value = 'stores:list:ID:1'; $('look').requestSubmit()")
        page.until("$('entry').textContent")
        if page.run("!!$('age')"):
            return
        time.sleep(0.5)


def picture(page: Page, name: str, *, width: int, height: int, scale: float = 1) -> None:
    """In light and dark. A height of 0 is that of the page."""
    page.resize(width, height or 2_000, scale=scale)
    page.resize(
        width, height or page.run("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom + scrollY)"), scale=scale
    )
    for scheme in SCHEMES:
        page.prefer(scheme)
        time.sleep(0.5)  # a frame or two
        path = DOCS / "images" / f"dashboard-{name}-{scheme}.png"
        image = Image.open(io.BytesIO(page.picture())).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # a third of the bytes, and nobody sees it
        print(path)


def main(seconds: int = SECONDS) -> int:
    """Returns 1 if the console of the browser said anything."""
    is_over = threading.Event()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        rows = airports()
        build(folder / "stores.sqlite", rows)
        os.environ |= {"STORES": str(folder / "stores.sqlite"), "CACHESYNC_REDIS_URL": stack.enter_context(valkey(folder)).url}
        port = free_port()
        stack.enter_context(served(port))
        codes = [row[0] for row in rows]
        random.Random(1).shuffle(codes)
        work = [threading.Thread(target=call, args=(port, codes, seed, is_over)) for seed in range(CALLERS)]
        work.append(threading.Thread(target=change, args=(port, is_over)))
        for thread in work:
            thread.start()
        try:
            with Browser() as browser:
                pages = wide, narrow = browser.page(), browser.page(width=360, height=780)
                for page in pages:
                    look(page, f"http://127.0.0.1:{port}/admin/cache/")
                time.sleep(seconds)
                use(wide)
                picture(wide, "wide", width=1280, height=0)
                picture(narrow, "narrow", width=360, height=1_180, scale=1.5)
                problems = [problem for page in pages for problem in page.problems]
        finally:
            is_over.set()
            for thread in work:
                thread.join()
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
