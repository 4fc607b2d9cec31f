"""The examples run as they are, with and without Redis, and say what they promise."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import httpx
import pytest

from cachesync.core.settings import CoordinationSettings
from support.nodes import LONG, LoopThread, until
from support.servers import Server, reserved_port

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
PATIENCE: Final = str(Path(__file__).parent / "support" / "patience")
KINDS: Final = ("fastapi", "flask", "django")
Told = tuple[int, Any, Any]
"""Status, header fields, and the body that JSON was."""
Ask = Callable[[str, str, Any, dict[str, str]], Told]


@contextmanager
def loaded(name: str) -> Generator[Any]:
    """An example as a module of its own, with its own cache: loaded twice, it is two workers. Its cache is closed at the end."""
    sys.modules.pop("store_functions", None)  # that of the worker before
    spec = importlib.util.spec_from_file_location(f"{name}_{secrets.token_hex(4)}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    sys.path.insert(0, str(EXAMPLES))  # where store_data is
    try:
        spec.loader.exec_module(module)
        with module.cache:
            yield module
    finally:
        sys.path.remove(str(EXAMPLES))
        del sys.modules[spec.name]


class Dashboard:
    """One of the three applications, as one worker: asked as its users ask it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def get(self, path: str, **headers: str) -> Told:
        return self._ask("GET", path, None, {"Authorization": "Bearer let-me-in", **headers})

    def post(self, path: str, body: Any) -> Told:
        return self._ask("POST", path, body, {"Authorization": "Bearer let-me-in"})

    def anonymous(self, path: str) -> Told:
        return self._ask("GET", path, None, {})

    def data(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert (status, body["success"]) == (200, True)
        return body["data"]

    @property
    def computed(self) -> int:
        number: int = self.data("/admin/cache/stats")["computed"]
        return number


@contextmanager
def dashboard(kind: str) -> Generator[Dashboard]:
    """The application of ``examples/<kind>_app.py``: that on Django is the process of its one command."""
    if kind == "django":
        with serving() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield Dashboard(partial(asked, client.request))
        return
    with loaded(f"{kind}_app") as example:
        if kind == "flask":
            transport = httpx.WSGITransport(example.app)
            with httpx.Client(base_url="http://worker", transport=transport) as client:
                yield Dashboard(partial(asked, client.request))
            return
        with LoopThread() as loop:
            browser = httpx.AsyncClient(base_url="http://worker", transport=httpx.ASGITransport(example.app))
            yield Dashboard(partial(asked, lambda *given, **named: loop.run(browser.request(*given, **named))))
            loop.run(browser.aclose())
            loop.run(example.cache.aclose())


def asked(request: Callable[..., httpx.Response], method: str, path: str, body: Any, headers: dict[str, str]) -> Told:
    answer = request(method, path, json=body, headers=headers)
    return answer.status_code, answer.headers, answer.json() if answer.content else None


@contextmanager
def serving() -> Generator[int]:
    """``python examples/django_app.py runserver``, on a port of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # a program finds what lies beside it
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [PATIENCE, environment.get("PYTHONPATH")]))
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        command = [sys.executable, str(EXAMPLES / "django_app.py"), "runserver", "--noreload", f"127.0.0.1:{port}"]
        server = stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            until(lambda: answers_at(port) or server.poll() is not None, "that the server answers")
            assert server.poll() is None, "the server has ended"
            yield port
        finally:
            server.terminate()


def answers_at(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["without Redis", "with Redis"])
def redis_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Each example runs once by itself, and once with a Valkey of its own named by the environment. A busy machine is no outage."""
    assert CoordinationSettings.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(CoordinationSettings.__init__.__kwdefaults__, "budget", LONG)
    monkeypatch.delenv("CACHESYNC_REDIS_URL", raising=False)
    if request.param == "without Redis":
        return None
    server: Server = request.getfixturevalue("fresh_server")
    monkeypatch.setenv("CACHESYNC_REDIS_URL", server.url)
    return server.url


def run_script(redis_url: str | None) -> list[str]:
    """What examples/script.py prints, run as a reader of the documentation runs it."""
    environment = {name: value for name, value in os.environ.items() if name != "CACHESYNC_REDIS_URL"}
    paths = [PATIENCE, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if redis_url:
        environment["CACHESYNC_REDIS_URL"] = redis_url
    run = subprocess.run([sys.executable, str(EXAMPLES / "script.py")], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def test_the_script_computes_each_value_once_until_it_is_invalidated(redis_url: str | None) -> None:
    """One computation for two equal calls, one for three spellings of a call, and one more after each invalidation."""
    lines = run_script(redis_url)
    computed = [line.split("... ")[1] for line in lines if "..." in line]
    assert computed == ["looking up CGK", "adding up java", "looking up CGK", "adding up java", "looking up DPS", "looking up XXX"]
    said = [line for line in lines if "..." not in line]
    assert said == [
        "1. The first call computes, the second is a hit: True",
        "2. One call, however it is written: 455 455 455",
        "3. Changed and invalidated: Store(code='CGK', city='Jakarta', region='java', visitors=50) 469",
        "4. Several at once: ['Jakarta', 'Denpasar', None]",
        "5. After a prefix was invalidated, nothing is held: None",
        "6. 10 calls, 6 computed, hit rate 40%",
    ]


def test_with_redis_a_second_run_of_the_script_finds_what_the_first_has_left(fresh_server: Server) -> None:
    """What was not invalidated at the end of the first run is not computed by the second: it is in Redis."""
    first, second = run_script(fresh_server.url), run_script(fresh_server.url)
    assert first.count("   ... adding up java") == 2
    assert second.count("   ... adding up java") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_dashboard_serves_fresh_answers_after_a_change(kind: str, redis_url: str | None) -> None:
    """Each answer is computed once. A sync puts the store, and whatever is made from stores, out of date; so does a pattern."""
    with dashboard(kind) as worker:
        for _ in range(2):
            assert [store["code"] for store in worker.data("/admin/stores")] == ["CGK", "SUB", "DPS"]
            assert worker.data("/admin/stores/CGK") == {"code": "CGK", "city": "Jakarta", "region": "java", "users": 48, "videos": 12}
            assert worker.data("/admin/stores/CGK/user-stats") == {"code": "CGK", "users": 48, "share": 0.539}
            assert worker.data("/admin/stores/CGK/video-stats") == {"code": "CGK", "videos": 12, "per_user": 0.25}
            assert worker.data("/admin/analytics/overview") == {"stores": 3, "users": 89, "videos": 26}
        assert worker.computed == 5
        assert worker.post("/admin/sync", {"code": "CGK"})[0] == 200
        assert worker.data("/admin/stores/CGK")["users"] == 49
        assert worker.data("/admin/stores/CGK/user-stats")["users"] == 49
        assert worker.data("/admin/stores/CGK/video-stats")["videos"] == 13
        assert worker.data("/admin/stores")[0]["users"] == 49
        assert worker.data("/admin/analytics/overview") == {"stores": 3, "users": 90, "videos": 27}
        assert worker.computed == 10
        status, _, body = worker.post("/admin/cache/invalidate", {"patterns": ["stores:*"], "tags": []})
        assert (status, ":" in body["data"]["stamp"]) == (200, True)
        worker.data("/admin/stores/CGK")
        assert worker.computed == 11


@pytest.mark.parametrize("kind", KINDS)
def test_a_dashboard_answers_a_browser_that_has_it_already(kind: str, redis_url: str | None) -> None:
    """With 304 and without a computation, to whom it belongs and to nobody else."""
    with dashboard(kind) as worker:
        _, fields, _ = worker.get("/admin/stores/CGK")
        assert (fields["cache-control"], fields["cache-status"]) == ("private, no-cache", "cachesync; fwd=miss")
        status, _, body = worker.get("/admin/stores/CGK", **{"If-None-Match": fields["etag"]})
        assert (status, body) == (304, None)
        assert worker.anonymous("/admin/stores/CGK")[0] == 401
        written = worker.post("/admin/sync", {"code": "CGK"})[1]
        assert written["cache-group-invalidation"] and written["cachesync-stamp"]
        assert worker.get("/admin/stores/CGK", **{"If-None-Match": fields["etag"]})[0] == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_dashboard_says_what_is_wrong(kind: str) -> None:
    """As JSON, and a store that does not exist is looked for once."""
    with dashboard(kind) as worker:
        for _ in range(2):
            status, _, body = worker.get("/admin/stores/XXX")
            assert (status, body["success"], body["error"]["message"]) == (404, False, "there is no such store")
        assert worker.computed == 1
        assert worker.post("/admin/sync", {"code": "XXX"})[0] == 404
        wrongs: tuple[Any, ...] = ({}, {"patterns": []}, {"patterns": "*"}, {"tags": [""]}, {"tags": [1]}, [])
        for wrong in wrongs:
            status, _, body = worker.post("/admin/cache/invalidate", wrong)
            assert (status, body["success"]) == (400, False)
        for wrong in ({}, {"code": 7}, ["CGK"], "CGK"):
            status, written, body = worker.post("/admin/sync", wrong)
            assert (status, body["success"], written.get("cache-group-invalidation")) == (400, False, None)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_of_a_dashboard_share_results_and_changes(kind: str, fresh_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one has computed the other finds in Redis; and a change at the one is heard at the other, which then asks anew."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", fresh_server.url)
    with dashboard(kind) as one, dashboard(kind) as two:
        assert one.data("/admin/stores/CGK") == two.data("/admin/stores/CGK")
        assert (one.computed, two.computed) == (1, 0)
        _, fields, _ = two.get("/admin/stores/CGK")
        stamp = one.post("/admin/cache/invalidate", {"tags": ["stores"], "patterns": ["stores:CGK"]})[2]["data"]["stamp"]
        status, after, _ = two.get("/admin/stores/CGK", **{"If-None-Match": fields["etag"], "Cachesync-At-Least": stamp})
        assert (status, after["cache-status"]) == (304, "cachesync; fwd=miss")  # of the same content, which was computed anew
        assert (two.computed, after["cachesync-stamp"]) == (1, stamp)


def test_workers_on_django_count_exactly(fresh_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Django's own cache counts, in one process or in two."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", fresh_server.url)
    with dashboard("django") as one, dashboard("django") as two:
        for worker in (one, two, one):
            worker.post("/admin/sync", {"code": "CGK"})
        until(lambda: one.data("/admin/cache/stats")["syncs"] == two.data("/admin/cache/stats")["syncs"] == 3, "that both have counted")


@pytest.mark.parametrize("name", ["fastapi_app", "flask_app", "django_app", "script", "store_data", "store_functions"])
def test_an_example_is_short(name: str) -> None:
    """An example is read in one go: at most 140 lines."""
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 140
