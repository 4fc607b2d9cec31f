"""What the tests lean on holds: servers die, freeze and come back as told, and the proxy cuts, holds and delays."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from support import debian
from support.browser import Browser, BrowserError
from support.nodes import until
from support.proxy import Proxy
from support.servers import FLAVOURS, Server, ServerError, Servers, tries_once

LONG = 30.0
SHORT = 0.2


@pytest.fixture
def line(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client through the proxy that gives up after ``SHORT`` seconds and does not try again."""
    client = redis.Redis(
        port=proxy.port, socket_timeout=SHORT, socket_connect_timeout=LONG, retry=tries_once(), single_connection_client=True
    )
    yield client
    client.close()


def test_each_flavour_is_the_version_it_is_named_after(every_server: Server) -> None:
    """``every_server`` runs on what its name says."""
    kind = FLAVOURS.get(every_server.flavour)
    assert kind is None or every_server.version.startswith(kind.version)


@pytest.mark.parametrize(("which", "name"), [("redis7", "Redis 7.0"), ("chromium", "Chromium")])
def test_where_a_program_can_not_be_unpacked_it_is_said_why(tmp_path: Path, which: str, name: str) -> None:
    """And no path is printed that leads nowhere."""
    script = tmp_path / "tests" / "support" / "debian.py"
    script.parent.mkdir(parents=True)
    shutil.copy(debian.__file__, script)
    run = subprocess.run([sys.executable, str(script), which], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"no {name} for the tests: there is no apt-get\n"


def test_tabs_of_one_visitor_share_what_they_keep(browser: Browser, tmp_path: Path) -> None:
    """And nothing with another visitor."""
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><link rel=icon href=data:,><input autofocus>")
    one, stranger = browser.page(), browser.page()
    other = one.tab()
    for page in (one, other, stranger):
        page.go(file.as_uri())
    one.run("localStorage.setItem('name', 'one')")
    assert other.run("localStorage.getItem('name')") == "one"
    assert stranger.run("localStorage.getItem('name')") is None


def test_what_goes_wrong_in_a_page_is_told(browser: Browser, tmp_path: Path) -> None:
    """What its console says, and what a script raises, whether the page or the test has it run."""
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><link rel=icon href=data:,><script>console.warn('beware', 2); nothing();</script>")
    page = browser.page()
    page.go(file.as_uri())
    assert [problem.partition("\n")[0] for problem in page.problems] == ["beware 2", "ReferenceError: nothing is not defined"]
    with pytest.raises(BrowserError, match="ReferenceError"):
        page.run("nothing()")


def test_keys_are_pressed_as_a_visitor_does(browser: Browser, tmp_path: Path) -> None:
    """The focus moves on and back, characters are written, and a button is pressed."""
    file = tmp_path / "page.html"
    file.write_text(
        "<!doctype html><link rel=icon href=data:,><input id=a autofocus><button onclick=\"this.textContent='done'\">do</button>"
    )
    page = browser.page()
    page.go(file.as_uri())
    until(lambda: page.run("document.activeElement.id") == "a", "that the focus is where it begins")
    page.press("h", "i", "Tab", "Enter")
    assert page.run("[document.querySelector('#a').value, document.activeElement.textContent]") == ["hi", "done"]
    page.press("Tab", shift=True)
    assert page.run("document.activeElement.id") == "a"


def test_a_browser_that_has_ended_says_so() -> None:
    """Nobody waits for an answer that can not come."""
    with Browser() as own:
        own.send("Browser.close")
        with pytest.raises(BrowserError, match="gone"):
            own.wait(lambda: None, "an answer")


def test_a_killed_server_comes_back_empty_on_its_port(fresh_server: Server) -> None:
    """``restart`` keeps the port; nothing was saved."""
    port = fresh_server.port
    fresh_server.client().set("a", "1")
    fresh_server.kill()
    assert not fresh_server.is_running
    fresh_server.start()
    assert fresh_server.port == port
    assert fresh_server.client().get("a") is None


def test_a_frozen_server_is_silent_and_remembers(fresh_server: Server) -> None:
    """``freeze`` leaves connections open and unanswered; after ``thaw`` all is as it was."""
    client = fresh_server.client(socket_timeout=SHORT)
    client.set("a", "1")
    fresh_server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.get("a")
    fresh_server.thaw()
    assert fresh_server.client(socket_timeout=LONG).get("a") == b"1"


def test_a_server_listens_on_a_unix_socket() -> None:
    """With ``unix_socket=True`` the url names a file, which is gone with the server."""
    with Server(unix_socket=True) as server:
        assert server.url.startswith("unix://")
        assert server.client().ping()
        folder = server.folder
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why() -> None:
    """The error carries what the server wrote."""
    server = Server(options=("--no-such-option", "1"))
    with pytest.raises(ServerError, match="no-such-option"):
        server.start()
    server.stop()


def test_a_forked_child_leaves_the_server_alone(fresh_server: Server) -> None:
    """Only the process that started a server stops it."""
    child = os.fork()
    if not child:
        fresh_server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert fresh_server.client().ping()


def test_a_namespace_is_flushed_and_its_neighbours_are_not() -> None:
    """Keys that contain the text go, wherever in the name it stands."""
    servers = Servers()
    client = servers["valkey9"].client()
    client.mset({"{mine}:log": 1, "mine:e:x": 1, "other": 1})
    servers.flush("mine")
    assert client.keys() == [b"other"]
    servers["valkey9"].kill()
    with pytest.raises(ServerError, match="fresh_server"):
        servers.flush("mine")
    servers.stop(keep_logs=False)


def test_what_tests_open_to_shared_servers_is_closed_after_each() -> None:
    """Else thousands of tests would leave thousands of sockets. A client that is used once more connects again."""
    servers = Servers()
    server = servers["valkey9"]
    watcher = redis.Redis(port=server.port, retry=tries_once())
    opened: list[redis.Redis] = []
    for _ in range(3):
        opened.append(server.client())
        opened[-1].set("mine", 1)
        servers.flush("mine")
        until(lambda: len(watcher.client_list()) == 1, "nobody but the watcher is connected")
    assert opened[0].get("mine") is None
    watcher.close()
    servers.stop(keep_logs=False)


def test_a_cut_resets_open_connections_and_welcomes_new_ones(proxy: Proxy, line: redis.Redis) -> None:
    """After ``cut`` the old connection is dead, not silent."""
    assert line.ping()
    proxy.cut()
    assert proxy.connections == 0
    with pytest.raises(redis.ConnectionError):
        line.ping()
    assert line.ping()
    assert proxy.accepted == 2


def test_a_black_hole_accepts_and_passes_nothing(proxy: Proxy, namespace: str, server: Server) -> None:
    """Under ``hold`` connecting works and nothing is answered; ``release`` delivers what was held, in order."""
    proxy.hold()
    with socket.create_connection(("127.0.0.1", proxy.port)) as line:
        line.sendall(f"SET {namespace} late\r\nGET {namespace}\r\n".encode())
        line.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert server.client().get(namespace) is None
        proxy.release()
        line.settimeout(LONG)
        with line.makefile("rb") as replies:
            assert [replies.readline() for _ in range(3)] == [b"+OK\r\n", b"$4\r\n", b"late\r\n"]


def test_a_reply_can_be_lost_after_the_request_has_arrived(proxy: Proxy, line: redis.Redis, namespace: str, server: Server) -> None:
    """``hold(replies=True)`` and ``cut``: the server has done it, the client can not know."""
    assert line.ping()
    proxy.hold(replies=True)
    with pytest.raises(redis.TimeoutError):
        line.set(namespace, "done")
    proxy.cut()
    proxy.release()
    assert server.client().get(namespace) == b"done"


def test_a_delay_is_felt(proxy: Proxy, line: redis.Redis) -> None:
    """Each way takes that much longer, at least."""
    assert line.ping()
    proxy.delay(0.05)
    begun = time.monotonic()
    assert line.ping()
    assert time.monotonic() - begun >= 0.1


def test_a_refusing_proxy_is_nobody_at_home(proxy: Proxy, line: redis.Redis) -> None:
    """``refuse`` makes connecting fail at once; ``admit`` opens the same port again."""
    assert line.ping()
    port = proxy.port
    proxy.refuse()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            line.ping()
    proxy.admit()
    assert proxy.port == port
    assert line.ping()


def test_a_proxy_without_its_server_breaks_off(fresh_server: Server) -> None:
    """When the server is gone, a client of the proxy is reset, not left waiting."""
    with Proxy("127.0.0.1", fresh_server.port) as proxy:
        fresh_server.kill()
        client = redis.Redis(port=proxy.port, socket_timeout=LONG, retry=tries_once())
        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()
