"""Looking into a running system: ``cachesync stats`` and ``top``, on real servers and beside a real application."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final, Self

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import cachesync
from cachesync import Cache, Policy, Settings
from cachesync.admin import Admin
from cachesync.command_line.asking import AdminAddress
from cachesync.command_line.survey import NAMES_OF_A_PAGE
from cachesync.command_line.top import COUNTS, Rates, View, follow
from cachesync.core.settings import CoordinationSettings
from support.commands import POLICIES, Printed, Run, call, name_policies
from support.nodes import LONG
from support.servers import Server

TWO_POLICIES = f"""{POLICIES}
[policy.users]
match = "users:*"
ttl = "10m"
"""


@pytest.fixture(autouse=True)
def policy_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str) -> Path:
    """A policy file of this test's namespace, and no other setting."""
    return name_policies(monkeypatch, tmp_path, namespace, TWO_POLICIES)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls ``main`` and returns the exit code, the output and the errors. ``url`` is where Redis is."""

    def called(*argv: str, url: str | None = None) -> Printed:
        if url is not None:
            monkeypatch.setenv("CACHESYNC_REDIS_URL", url)
        return call(capsys, *argv)

    return called


def cache_at(url: str, namespace: str) -> Cache:
    """A process of the system, with one policy more than the policy file has."""
    policies = [Policy(name=name, match=f"{name}:*", ttl="10m") for name in ("stores", "users", "others")]
    patient = Settings(coordination=CoordinationSettings(budget=LONG))  # a busy machine is no outage
    return Cache(patient, policies=policies, namespace=namespace, redis=url, listen=False)


# --- stats: what lies in Redis ----------------------------------------------------------------------------------------------------


def test_stats_counts_what_lies_in_redis(run: Run, every_server: Server, namespace: str) -> None:
    """Entries and bytes by policy, over several pages of names; what belongs to no policy stands apart, and the log is told."""
    with cache_at(every_server.url, namespace) as cache:
        for number in range(NAMES_OF_A_PAGE + 20):
            cache.set(f"stores:{number}", "x" * 100)
        cache.set("others:1", 1)
        cache.set("users:" + "x" * 600, 1)
        stamp = cache.invalidate("stores:0", tags=["t"])
    code, out, err = run("stats", "--json", url=every_server.url)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["ok"], found["stamp"], found["namespace"]) == (True, str(stamp), namespace)
    assert found["policies"]["stores"]["entries"] == NAMES_OF_A_PAGE + 19
    assert found["policies"]["stores"]["bytes"] > 100 * NAMES_OF_A_PAGE
    assert found["policies"]["users"] == {"entries": 0, "bytes": 0}
    assert {name: row["entries"] for name, row in found["others"].items()} == {
        "no policy of this file": 1,
        "keys of more than 512 bytes": 1,
    }
    assert found["entries"] == NAMES_OF_A_PAGE + 21
    assert found["records"] > 0 and found["bans"] > 0 and found["leases"] == 0
    code, out, err = run("stats")
    assert (code, err) == (0, "")
    assert ["stores", f"{NAMES_OF_A_PAGE + 19:,}"] in [line.split()[:2] for line in out.splitlines()]
    assert str(stamp) in out


# --- an application ---------------------------------------------------------------------------------------------------------------

TOKEN: Final = "a token that nobody guesses"


class Application:
    """A process that caches and mounts the admin app, as far as commands see: a cache, and uvicorn in a thread."""

    def __init__(self) -> None:
        policies = [Policy(name=name, match=f"{name}:*", ttl="10m") for name in ("stores", "users")]
        self.cache = Cache(policies=policies)
        self.answers = True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/admin/cache"
        app = Starlette(routes=[Mount("/admin/cache", Admin(self.cache, authorise=self._authorise, rate=1000.0))])
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def _authorise(self, scope: Any) -> str | None:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return "somebody" if self.answers and sent == f"Bearer {TOKEN}".encode() else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(LONG)
        self._socket.close()
        self.cache.close()

    def work(self, stores: int, users: int) -> None:
        """Ask for so many different stores twice, and for so many users once."""
        for _ in range(2):
            for number in range(stores):
                self.cache.get_or_compute(f"stores:{number}", lambda: 1)
        for number in range(users):
            self.cache.get_or_compute(f"users:{number}", lambda: 1)


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """A running application, named by the environment."""
    with Application() as running:
        monkeypatch.setenv("CACHESYNC_ADMIN_URL", running.url)
        monkeypatch.setenv("CACHESYNC_ADMIN_TOKEN", TOKEN)
        yield running


def test_stats_asks_an_application(run: Run, application: Application) -> None:
    """What that process has counted, by policy; named by options or by the environment."""
    application.work(stores=10, users=5)
    code, out, err = run("stats", "--json")
    found = json.loads(out)
    assert (code, err, found["ok"], found["url"]) == (0, "", True, application.url)
    assert (found["policies"]["stores"]["calls"], found["policies"]["stores"]["computed"]) == (20, 10)
    code, out, err = run("stats", "--url", application.url + "/", "--token", TOKEN)
    rows = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert ["stores", "20", "50.0%", "10", "0", "0", "10", "0", "0"] in [row[:9] for row in rows]
    assert ["all", "25"] in [row[:2] for row in rows]


@pytest.mark.parametrize("command", ["stats", "top"])
def test_an_application_that_says_no_is_told_with_advice(run: Run, application: Application, command: str) -> None:
    """A wrong token, another path, nobody there: each is 1, in a line that says what to do. An address that is none is misuse."""
    for argv, says in (
        (("--token", "wrong"), "name a token by --token"),
        (("--url", application.url + "/nothing"), "answers 404"),
        (("--url", application.url.removesuffix("/admin/cache")), "answers 404"),
        (("--url", "http://127.0.0.1:1/"), "is the application running"),
    ):
        code, out, err = run(command, *argv)
        assert (code, out, err.count("\n")) == (1, "", 1) and says in err, argv
    assert "answers 404; is the admin app mounted there?" in run(command, "--url", application.url.removesuffix("/admin/cache"))[2]
    for url in ("nonsense", "ftp://x/", "http://", "http://x:99999/", "http://a b/"):
        code, _, err = run(command, "--url", url)
        assert code == 2 and "no address of an admin app" in err


def test_doctor_asks_an_application_how_it_is(run: Run, application: Application) -> None:
    """With an address the health of that process is a finding, and its reasons with it."""
    code, out, err = run("doctor")
    assert (code, err) == (0, "") and f"application  {application.url} is ok" in out
    application.cache.switch_here("local", "off")
    code, out, err = run("doctor")
    assert (code, err) == (0, "") and "is degraded: a switch was thrown" in out


def test_doctor_advises_by_why_an_application_does_not_say_how_it_is(run: Run, application: Application) -> None:
    """A token for one that says no, and a start for one that is not there."""
    for argv, says, advice in (
        (("--token", "wrong"), "says no (403)", "name a token by --token"),
        (("--url", "http://127.0.0.1:1/"), "does not answer", "is the application running"),
    ):
        code, out, _ = run("doctor", *argv)
        found = next(line for line in out.splitlines() if line.startswith("wrong"))
        then = out.splitlines()[out.splitlines().index(found) + 1]
        assert code == 1 and says in found and advice not in found and then.lstrip().startswith(f"-> {advice}")


def test_a_token_follows_nobody_elsewhere(run: Run, application: Application) -> None:
    """A redirection is told, not followed: the token is for the address that was named."""
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"{application.url}/stats")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        code, _, err = run("stats", "--url", f"http://127.0.0.1:{server.server_port}/")
        thread.join(LONG)
    assert code == 1 and "leads elsewhere" in err
    assert asked == ["/stats"]


def test_what_is_none_of_ours_is_told(run: Run) -> None:
    """Another program may answer there, with whatever it likes."""
    bodies = [b"<html>", b"[]", b'{"data": 1}', b'{"data": {}}', b'{"data": {"process": []}}', b"\xff", b""]

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            while bodies:
                for command in ("stats", "top"):
                    code, out, err = run(command, "--url", f"http://127.0.0.1:{server.server_port}/")
                    assert (code, out, err.count("\n")) == (1, "", 1), (bodies[-1], err)
                bodies.pop()
        finally:
            server.shutdown()


# --- top --------------------------------------------------------------------------------------------------------------------------


def test_top_puts_first_what_is_asked_most_or_missed_most(run: Run, application: Application) -> None:
    """``--once`` tells what was counted since the process began; ``--sort`` and ``--by`` choose."""
    application.work(stores=10, users=12)
    for argv, names in (((), ["stores", "users"]), (("--sort", "computed"), ["users", "stores"])):
        code, out, err = run("top", "--once", *argv)
        assert (code, err) == (0, "")
        assert [line.split()[1] for line in out.splitlines()[1:]] == names
    code, out, _ = run("top", "--once", "--json", "--by", "function")
    found = json.loads(out)
    assert (code, found["per"], found["processes"]) == (0, "process", 1)
    assert [(row["name"], row["calls"], row["computed"], row["hit_rate"]) for row in found["rows"]] == [
        ("keys of policy stores", 20, 10, 0.5),
        ("keys of policy users", 12, 12, 0.0),
    ]


def test_rates_are_counted_by_process() -> None:
    """Several processes may answer at one address: each is compared with itself, what they do is added, who is gone is forgotten."""

    def told(pid: int, now: float, calls: int) -> dict[str, Any]:
        row = dict.fromkeys((*COUNTS, "hits", "repeated"), 0) | {"calls": calls}
        return {"process": {"pid": pid, "now": now}, "since": 1.0, "policies": {"stores": row}}

    rates = Rates("policy", 1.0)
    found = [
        rates.take(told(*answer))["stores"]["calls"]
        for answer in [(1, 10.0, 100), (2, 10.5, 5_000), (1, 12.0, 120), (2, 12.5, 5_100), (2, 13.5, 5_100)]
    ]
    assert found == [0, 0, 10, 60, 10]
    assert rates.processes == 2
    assert rates.take(told(2, 30.0, 5_100))["stores"]["calls"] == 0
    assert rates.processes == 1


def test_top_prints_lines_where_there_is_no_terminal(run: Run, application: Application) -> None:
    """A line for each policy and turn, without any code for a terminal; ``--json`` makes objects. ``--count`` ends it."""
    application.work(stores=1, users=1)
    code, out, err = run("top", "--count", "2", "--every", "100ms")
    assert (code, err, out.count("stores"), out.count("calls/s")) == (0, "", 2, 1)
    assert "\x1b" not in out
    code, out, err = run("top", "--count", "2", "--every", "100ms", "--json")
    assert [json.loads(line)["per"] for line in out.splitlines()] == ["second", "second"]


def test_top_goes_on_when_an_application_is_back(application: Application) -> None:
    """Who has answered once is waited for; that it does not answer is told once."""
    out = io.StringIO()
    view = View("policy", "calls", 0.1, is_total=False)
    turns = iter([True, False, False, True])
    application.cache.get_or_compute("stores:1", lambda: 1)
    errors = io.StringIO()
    address = AdminAddress(application.url, TOKEN)

    def pause(_: float) -> None:
        application.answers = next(turns)

    follow(address, view, 5, as_json=True, out=out, errors=errors, pause=pause)
    assert errors.getvalue().count("says no") == 1
    assert out.getvalue().count('"rows"') == 3


def test_top_draws_on_a_terminal_and_leaves_it_as_it_was(application: Application) -> None:
    """On the terminal's other screen, no wider and no longer than it is; Ctrl-C is 130, and brings the first screen and the cursor back."""
    application.work(stores=2, users=1)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 60, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(Path(cachesync.__file__).parents[1]), "TERM": "xterm"}
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "cachesync", "top", "--every", "100ms"]
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"stores") < 2:
            shown += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # Linux says so when the other end is closed
            while chunk := os.read(ours, 65_536):
                shown += chunk
        assert process.wait(LONG) == 130
    os.close(ours)
    text = shown.decode()
    assert text.startswith("\x1b[?1049h") and text.rstrip().endswith("\x1b[?1049l") and "\x1b[?25h" in text
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\r\n")
    assert max(map(len, lines)) <= 60
