"""The examples run as they are, with and without Redis, and say what they promise."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from cachesync import Cache, Stamp
from support.servers import Server

EXAMPLES = Path(__file__).parents[1] / "examples"


@contextmanager
def loaded(name: str) -> Generator[Any]:
    """An example as a module of its own, with its own cache: loaded twice, it is two workers. Its cache is closed at the end."""
    spec = importlib.util.spec_from_file_location(f"{name}_{secrets.token_hex(4)}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    try:
        spec.loader.exec_module(module)
        with module.cache:
            yield module
    finally:
        del sys.modules[spec.name]


@asynccontextmanager
async def visiting(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an ASGI application that has been started, and is ended afterwards."""
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client


@pytest.fixture(params=["without Redis", "with Redis"])
def redis_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Each example runs once by itself, and once with a Valkey of its own named by the environment."""
    monkeypatch.delenv("CACHESYNC_REDIS_URL", raising=False)
    if request.param == "without Redis":
        return None
    server: Server = request.getfixturevalue("fresh_server")
    monkeypatch.setenv("CACHESYNC_REDIS_URL", server.url)
    return server.url


def run_script(redis_url: str | None) -> list[str]:
    """What examples/script.py prints, run as a reader of the documentation runs it."""
    environment = {name: value for name, value in os.environ.items() if name != "CACHESYNC_REDIS_URL"}
    paths = [str(Path(__file__).parent / "support" / "patience"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if redis_url:
        environment["CACHESYNC_REDIS_URL"] = redis_url
    run = subprocess.run([sys.executable, str(EXAMPLES / "script.py")], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def wait_for(cache: Cache, stamp: str) -> None:
    """Return when the cache has applied the log up to ``stamp``."""
    wanted, deadline = Stamp.parse(stamp), time.monotonic() + 20
    while True:
        position = cache.stats().position
        if position is not None and position.epoch == wanted.epoch and position.number >= wanted.number:
            return
        assert time.monotonic() < deadline, f"{position} has not become {wanted}"
        time.sleep(0.005)


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


def test_the_fastapi_application_serves_fresh_answers_after_a_change(redis_url: str | None) -> None:
    """An async view is computed once; the administrator's route puts the store and what was made from stores out of date."""

    async def story(app: Any) -> None:
        async with visiting(app) as client:
            for _ in range(3):
                assert (await client.get("/stores/CGK")).json() == {"code": "CGK", "city": "Jakarta", "region": "java", "visitors": 48}
                assert (await client.get("/regions/java/visitors")).json() == 65
            assert (await client.get("/admin/cache")).json() == {"calls": 6, "computed": 2, "hit_rate": pytest.approx(2 / 3)}

            assert (await client.put("/admin/stores/CGK", json={"visitors": 50})).status_code == 200
            assert (await client.get("/stores/CGK")).json()["visitors"] == 50
            assert (await client.get("/regions/java/visitors")).json() == 67

    with loaded("fastapi_app") as example:
        asyncio.run(story(example.app))


def test_the_fastapi_application_says_what_is_not_there(redis_url: str | None) -> None:
    """A store that does not exist is 404, and its absence is cached too."""

    async def story(app: Any) -> None:
        async with visiting(app) as client:
            assert [(await client.get("/stores/XXX")).status_code for _ in range(2)] == [404, 404]
            assert (await client.get("/admin/cache")).json()["computed"] == 1
            assert (await client.put("/admin/stores/XXX", json={"visitors": 1})).status_code == 404
            assert (await client.put("/admin/stores/CGK", json={"visitors": "many"})).status_code == 422

    with loaded("fastapi_app") as example:
        asyncio.run(story(example.app))


def test_the_flask_application_serves_fresh_answers_after_a_change(redis_url: str | None) -> None:
    """A view is computed once; the administrator's route puts the store and what was made from stores out of date."""
    with loaded("flask_app") as example:
        client = example.app.test_client()
        for _ in range(3):
            assert client.get("/stores/CGK").json == {"code": "CGK", "city": "Jakarta", "region": "java", "visitors": 48}
            assert client.get("/regions/java/visitors").json == 65
        assert client.get("/admin/cache").json == {"calls": 6, "computed": 2, "hit_rate": pytest.approx(2 / 3)}

        assert client.put("/admin/stores/CGK", json={"visitors": 50}).status_code == 200
        assert client.get("/stores/CGK").json["visitors"] == 50
        assert client.get("/regions/java/visitors").json == 67


def test_the_flask_application_says_what_is_not_there(redis_url: str | None) -> None:
    """A store that does not exist is 404, and its absence is cached too."""
    with loaded("flask_app") as example:
        client = example.app.test_client()
        assert [client.get("/stores/XXX").status_code for _ in range(2)] == [404, 404]
        assert client.get("/admin/cache").json["computed"] == 1
        assert client.put("/admin/stores/XXX", json={"visitors": 1}).status_code == 400
        assert client.put("/admin/stores/CGK", json={"visitors": "many"}).status_code == 400


def test_two_flask_workers_share_results_and_changes(fresh_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one worker has computed the other finds in Redis; a change at the one is fresh at the other for who asks with its stamp."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", fresh_server.url)
    with loaded("flask_app") as one, loaded("flask_app") as two:
        two.DATABASE = one.DATABASE
        first, second = one.app.test_client(), two.app.test_client()
        assert first.get("/stores/CGK").json == second.get("/stores/CGK").json
        assert two.cache.stats().total.computed == 0

        stamp = first.put("/admin/stores/CGK", json={"visitors": 50}).json["stamp"]
        assert second.get(f"/stores/CGK?at_least={stamp}").json["visitors"] == 50
        assert second.get("/stores/CGK").json["visitors"] == 50


def test_two_fastapi_workers_share_results_and_changes(fresh_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for coroutine functions and pydantic models."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", fresh_server.url)

    async def story(one: Any, two: Any) -> None:
        async with visiting(one.app) as first, visiting(two.app) as second:
            assert (await first.get("/stores/CGK")).json() == (await second.get("/stores/CGK")).json()
            assert two.cache.stats().total.computed == 0

            stamp = (await first.put("/admin/stores/CGK", json={"visitors": 50})).json()["stamp"]
            await asyncio.to_thread(wait_for, two.cache, stamp)
            assert (await second.get("/stores/CGK")).json()["visitors"] == 50

    with loaded("fastapi_app") as one, loaded("fastapi_app") as two:
        two.DATABASE = one.DATABASE
        asyncio.run(story(one, two))


@pytest.mark.parametrize("name", ["fastapi_app", "flask_app", "script"])
def test_an_example_is_short(name: str) -> None:
    """An example is read in one go: at most 85 lines."""
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 85
