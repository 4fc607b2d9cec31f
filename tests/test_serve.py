"""``cachesync serve``: the admin app alone, who may enter it, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import cachesync
from cachesync import Cache, Policy, Settings
from cachesync.cli import main
from cachesync.command_line.serve import Gate, credentials, is_loopback, who_of
from cachesync.core.settings import CoordinationSettings
from support.commands import name_policies
from support.nodes import LONG
from support.servers import Server

TOKEN: Final = "a-token-that-nobody-guesses"


@pytest.fixture(autouse=True)
def policy_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str) -> None:
    """A policy file of this test's namespace, and no other setting."""
    name_policies(monkeypatch, tmp_path, namespace)
    monkeypatch.chdir(tmp_path)


@contextmanager
def serving(*argv: str, **environment: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """``cachesync serve`` as a process of its own, and its address."""
    command = [sys.executable, "-m", "cachesync", "serve", "--port", "0", "--json", *argv]
    given = os.environ | {"PYTHONPATH": str(Path(cachesync.__file__).parents[1])} | environment
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert told["ok"] and told["pid"] == process.pid
            yield process, told["url"]
        finally:
            if process.poll() is None:
                process.kill()


def ask(url: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Content-Type": "application/json"} if data else {})
    request = urllib.request.Request(url, data, sent)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LONG) as reply:
            return reply.status, dict(reply.headers), json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


# --- the process ------------------------------------------------------------------------------------------------------------------


def test_it_looks_at_a_system_and_changes_it(server: Server, namespace: str) -> None:
    """An invalidation that is sent to it is heard by every process; SIGTERM ends it at once, with 0."""
    patient = Settings(coordination=CoordinationSettings(budget=LONG))
    policies = [Policy(name="stores", match="stores:*", ttl="10m")]
    with (
        serving(CACHESYNC_REDIS_URL=server.url) as (process, url),
        Cache(patient, policies=policies, namespace=namespace, redis=server.url, listen=False) as cache,
    ):
        assert cache.get_or_compute("stores:JKT", lambda: 1) == 1
        status, _, told = ask(f"{url}invalidate", {"patterns": ["stores:*"]})
        assert status == 200
        stamp = cachesync.Stamp.parse(told["data"]["stamp"])
        assert cache.get_or_compute("stores:JKT", lambda: 2, at_least=stamp) == 2
        assert ask(f"{url}health")[2]["data"]["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0
        assert process.stderr is not None and process.stderr.read() == ""


def test_with_a_token_nothing_is_told_without_it(tmp_path: Path) -> None:
    """401 with a challenge for browsers; Bearer and Basic are taken. Ctrl-C ends it with 130."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    with serving("--host", "0.0.0.0", "--token-file", str(tmp_path / "token")) as (process, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        for path in ("", "stats", "events", "health", "metrics", "nothing"):
            status, headers, told = ask(url + path)
            assert (status, told["error"]["code"]) == (401, "unauthorized")
            assert headers["www-authenticate"].startswith("Basic ")
        assert ask(f"{url}invalidate", {"patterns": ["*"]})[0] == 401
        assert ask(f"{url}stats", Authorization=f"Bearer {TOKEN}x")[0] == 401
        basic = base64.b64encode(f"ann:{TOKEN}".encode()).decode()
        for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
            assert ask(f"{url}stats", Authorization=header)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        assert process.stderr is not None and "TLS" not in process.stderr.read()  # --json: for programs


# --- before it listens ------------------------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and errors of ``cachesync serve`` that does not begin."""
    code = main(["serve", *argv])
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return code, printed.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_it_is_not_reached_from_elsewhere_without_a_token(capsys: pytest.CaptureFixture[str], host: str) -> None:
    """Only addresses of this machine may do without; the message says both ways out."""
    code, err = refusal(capsys, "--host", host)
    assert code == 2 and "--token-file" in err and "127.0.0.1" in err
    assert not is_loopback(host)
    assert is_loopback("127.0.0.1") and is_loopback("127.1.2.3") and is_loopback("::1") and is_loopback("localhost")


def test_a_token_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too short, empty, or a file that can not be read; an empty variable is not taken for none. The token is not shown."""
    (tmp_path / "short").write_text("secret\n")
    code, err = refusal(capsys, "--token-file", "short")
    assert code == 2 and "at least 16" in err and "'secret'" not in err
    assert "can not be read" in refusal(capsys, "--token-file", "nowhere")[1]
    monkeypatch.setenv("CACHESYNC_ADMIN_TOKEN", "")
    assert refusal(capsys)[0] == 2


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With 1: another one may do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = refusal(capsys, "--port", str(taken.getsockname()[1]))
    assert code == 1 and err.rstrip().endswith("can not be listened on: Address already in use; choose another --port")


def test_what_has_to_be_installed_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvicorn it is 2, with what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, err = refusal(capsys)
    assert code == 2 and 'pip install "cachesync[serve]"' in err


# --- the gate ---------------------------------------------------------------------------------------------------------------------


def let_through(token: str | None, kind: str = "http", path: str = "/stats", **headers: str) -> tuple[str | None, list[Any]]:
    """Who came in, and what was answered to whom was kept out."""
    came: list[str | None] = []
    sent: list[Any] = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        came.append(who_of(scope))

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]}
    asyncio.run(Gate(app, token)(scope, receive, send))
    assert bool(came) != bool(sent)
    return (came[0], []) if came else (None, sent)


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("localhost:8400", "local"),
        ("127.0.0.1:8400", "local"),
        ("[::1]:8400", "local"),
        ("localhost", "local"),
        ("evil.example:8400", None),
        ("127.0.0.1.evil.example", None),
        ("localhost.evil.example", None),
        ("", None),
        ("evil.example@localhost", None),
        ("[::1", None),
        ("\xff", None),
    ],
)
def test_without_a_token_it_is_asked_by_a_name_of_this_machine(host: str, who: str | None) -> None:
    """A page may give its own name the address 127.0.0.1 (DNS rebinding), and its requests are then of the same origin."""
    found, sent = let_through(None, host=host)
    assert found == who
    assert [message["status"] for message in sent if "status" in message] == ([] if who else [403])


def test_a_websocket_without_the_token_is_closed() -> None:
    """As HTTP is answered by 401; the browser client's text alone is for everybody."""
    _, sent = let_through(TOKEN, "websocket", "/events", host="x")
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert let_through(TOKEN, path="/client.js", host="x") == (None, [])


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Basic", b"Basic !", b"Basic YQ", b"Basic YQ==", b"Digest x", b"Bearer  ", b"\xff", b"Basic \xff=="]
)
def test_what_is_no_token_is_none(header: bytes) -> None:
    """Whatever stands in the header, it is no error, and lets nobody in."""
    assert credentials(header)[1] == b""


def test_a_name_of_basic_is_told_to_the_audit() -> None:
    """Who has the token may say who he is."""
    basic = base64.b64encode(f"ann:{TOKEN}".encode()).decode()
    assert let_through(TOKEN, authorization=f"Basic {basic}") == ("ann", [])
    assert let_through(TOKEN, authorization=f"Bearer {TOKEN}") == ("token", [])
