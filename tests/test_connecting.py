"""Ways to a server: a Unix socket, TLS, a user with a password. What is said on them is the same, and no secret is ever shown."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cachesync import Cache, Event, Policy, PolicyError, RedisShared, Settings
from cachesync.command_line.printing import address_of
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.errors import LayerError
from cachesync.layers.redis_line import parser
from cachesync.protocols import Shared
from cachesync.testing import SharedLayerContract
from support.nodes import COLOURS, LONG, Callers, Colour, LoopThread, until
from support.servers import Server
from support.tls import Authority, TlsProxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls(server: Server, authority: Authority) -> Iterator[TlsProxy]:
    """TLS in front of the server, for ``localhost``."""
    with TlsProxy(server.port, authority.certificate("localhost", "127.0.0.1")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tls_url(tls: TlsProxy, authority: Authority) -> str:
    return f"rediss://localhost:{tls.port}/0?ssl_ca_certs={authority.path}"


@pytest.fixture(scope="module")
def socket_server() -> Iterator[Server]:
    with Server(unix_socket=True) as own:
        yield own


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


class Connected(SharedLayerContract):
    """The contract of shared layers, at ``url``; ``server`` is where it leads."""

    server: Server
    url: str
    namespace: str

    def make_shared(self) -> Shared:
        return RedisShared(self.url, namespace=self.namespace)

    def lose_everything(self, shared: Shared) -> None:
        client = self.server.client()
        for name in client.keys(f"*{self.namespace}*"):
            client.delete(name)

    @contextmanager
    def cut_off(self, shared: Shared) -> Generator[None, None, None]:
        self.server.client().client_kill_filter(_type="pubsub")
        yield


class TestTls(Connected):
    """Over TLS."""

    @pytest.fixture(autouse=True)
    def _connect(self, server: Server, tls_url: str, namespace: str) -> None:
        self.server, self.url, self.namespace = server, tls_url, namespace


class TestTlsAsync(TestTls):
    colour = "async def"


class TestUnixSocket(Connected):
    """Through a socket file."""

    @pytest.fixture(autouse=True)
    def _connect(self, socket_server: Server, namespace: str) -> None:
        self.server, self.url, self.namespace = socket_server, socket_server.url, namespace


class TestUnixSocketAsync(TestUnixSocket):
    colour = "async def"


def later(value: object) -> Callable[[], Awaitable[object]]:
    """What computes a value in ``async def``."""

    async def compute() -> object:
        return value

    return compute


def ways(server: Server, socket_server: Server, tls_url: str) -> dict[str, str]:
    return {
        "a database": server.url.removesuffix("/0") + "/3",
        "a database as an option": server.url.removesuffix("/0") + "?db=3",
        "a socket": socket_server.url,
        "a socket and a database": socket_server.url.replace("db=0", "db=3"),
        "TLS": tls_url,
        "TLS and a database": tls_url.replace("/0?", "/3?"),
    }


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    "way", ["a database", "a database as an option", "a socket", "a socket and a database", "TLS", "TLS and a database"]
)
def test_processes_are_one_cache_whatever_the_way(
    server: Server, socket_server: Server, tls_url: str, namespace: str, colour: Colour, loop: LoopThread, way: str
) -> None:
    """A value of three megabytes comes as it is, and an invalidation is heard."""
    callers = Callers(ways(server, socket_server, tls_url)[way], namespace, colour, loop)
    a, b = callers.new(), callers.new()
    large = "x" * 3_000_000
    assert a.get_or_compute("k", lambda: large) == large
    assert b.get_or_compute("k", lambda: "computed again") == large
    until(lambda: b.cache.stats().log.is_heard, "hearing the log")
    callers.apply(a.drop("k"))
    assert b.get_or_compute("k", lambda: "after") == "after"
    assert a.get("k") == "after"
    callers.close()


def test_connections_over_tls_that_a_closed_loop_left_are_let_go(tls: TlsProxy, tls_url: str, namespace: str) -> None:
    """Nobody closed the cache in the loop; the sockets are closed all the same, and nothing warns of them."""
    cache = cache_at(tls_url, namespace, listen=False)

    async def ask() -> object:
        return await cache.aget_or_compute("k", later("value"))

    before = tls.connections
    for _ in range(3):
        own = asyncio.new_event_loop()
        assert own.run_until_complete(ask()) == "value"
        own.close()
    cache.close()
    gc.collect()
    until(lambda: tls.connections <= before, "closing the connections")


# --- who is believed ------------------------------------------------------------------------------------------------------------


def cache_at(url: str, namespace: str = "connecting", events: list[Event] | None = None, **options: Any) -> Cache:
    settings = Settings(
        namespace=namespace, redis=RedisSettings(url), coordination=CoordinationSettings(budget=LONG, max_lag=60.0, lease=LONG)
    )
    note = None if events is None else events.append
    return Cache(settings, policies=[Policy(name="all", match="*", ttl="1h")], on_event=note, **options)


def asked(url: str, colour: Colour) -> list[Event]:
    """The events of one question."""
    events: list[Event] = []
    cache = cache_at(url, events=events, listen=False)
    if colour == "def":
        assert cache.get_or_compute("k", lambda: 1) == 1
        cache.close()
    else:

        async def ask() -> None:
            assert await cache.aget_or_compute("k", later(1)) == 1
            await cache.aclose()

        asyncio.run(ask())
    return events


@pytest.mark.parametrize("colour", COLOURS)
def test_a_server_is_believed_whose_certificate_an_authority_has_signed_for_its_name(
    server: Server, authority: Authority, tls_url: str, tmp_path: Path, colour: Colour
) -> None:
    """Anybody else is not spoken to: the call is computed, and an event says why."""
    assert asked(tls_url, colour) == []
    stranger = Authority(tmp_path, "somebody else")
    [told, *_] = asked(tls_url.replace(str(authority.path), str(stranger.path)), colour)
    assert told.name == "layer_failed"
    assert "certificate verify failed" in told.fields["error"]
    with TlsProxy(server.port, authority.certificate("redis.example")) as other:
        url = f"rediss://localhost:{other.port}/0?ssl_ca_certs={authority.path}"
        [told, *_] = asked(url, colour)
        assert told.name == "layer_failed"
        assert "localhost" in told.fields["error"]
        assert asked(f"{url}&ssl_check_hostname=false", colour) == []
        assert asked(f"rediss://localhost:{other.port}/0?ssl_cert_reqs=none", colour) == []


@pytest.mark.parametrize("colour", COLOURS)
def test_a_client_shows_its_certificate_where_it_is_given_one(server: Server, authority: Authority, colour: Colour) -> None:
    """By ``ssl_certfile`` and ``ssl_keyfile``, which may be one file."""
    mine = authority.certificate("me", client=True)
    with TlsProxy(server.port, authority.certificate("localhost"), clients=authority) as strict:
        url = f"rediss://localhost:{strict.port}/0?ssl_ca_certs={authority.path}"
        assert asked(f"{url}&ssl_certfile={mine}&ssl_keyfile={mine}", colour) == []
        assert "layer_failed" in [event.name for event in asked(url, colour)]


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_found_at_start(option: str) -> None:
    """And named."""
    with pytest.raises(PolicyError, match=rf"redis\.url: {option}: '/no/such\.pem' is not there"):
        cache_at(f"rediss://user:geheim@localhost/0?{option}=/no/such.pem")


@pytest.mark.parametrize("url", ["rediss://u:geheim@h/0?ssl_cert_reqs=maybe", "redis://u:geheim@h/0?ssl_ca_certs=/dev/null"])
def test_an_option_that_can_not_be_is_found_at_start(url: str) -> None:
    """Without the rest of the url in the message."""
    with pytest.raises(PolicyError, match=r"redis\.url: ") as told:
        cache_at(url)
    assert "geheim" not in "".join(traceback.format_exception(told.value))


# --- secrets --------------------------------------------------------------------------------------------------------------------

USER, PASSWORD = "carlotta", "geheimnis"


@pytest.fixture
def guarded(fresh_server: Server) -> Server:
    """A server with a user that may nothing but look."""
    admin: Any = fresh_server.client()
    admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "+ping", "+info", "+time")
    return fresh_server


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("trouble", ["wrong password", "no rights", "nobody there"])
def test_no_trouble_shows_who_asks_with_what_password(
    guarded: Server, colour: Colour, loop: LoopThread, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """Not in events, the log, errors with all their causes, what objects show of themselves, or the address that commands print."""
    caplog.set_level(logging.DEBUG, "cachesync")
    password = "falschgeheimnis" if trouble == "wrong password" else PASSWORD
    port = 1 if trouble == "nobody there" else guarded.port
    events: list[Event] = []
    cache = cache_at(f"redis://{USER}:{password}@127.0.0.1:{port}/0", events=events)
    shown = [repr(cache), repr(cache.settings), str(address_of(cache.settings))]
    if colour == "def":
        assert cache.get_or_compute("k", lambda: 1) == 1
        cache.invalidate("k")
        with pytest.raises(LayerError) as told:
            cache.sweep()
        until(lambda: any(event.fields.get("step") == "Hear" for event in events), "the ear's trouble")
        cache.close()
    else:

        async def ask() -> pytest.ExceptionInfo[LayerError]:
            assert await cache.aget_or_compute("k", later(1)) == 1
            await cache.ainvalidate("k")
            with pytest.raises(LayerError) as found:
                await cache.asweep()
            await cache.aclose()
            return found

        told = loop.run(ask())
    shown += [*map(str, events), *map(repr, events), caplog.text, *traceback.format_exception(told.value)]
    assert {"layer_failed", "invalidation_queued"} <= {event.name for event in events}
    for text in shown:
        assert USER not in text
        assert "geheimnis" not in text


def test_a_url_in_the_wrong_place_is_not_shown() -> None:
    """Nor in the message about it."""
    with pytest.raises(PolicyError, match="redis=") as told:
        Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=f"redis://{USER}:{PASSWORD}@h")  # type: ignore[arg-type]
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (
            "NOPERM User carlotta has no permissions to run the 'get' command",
            "NOPERM this user has no permissions to run the 'get' command",
        ),
        ("ERR ACL failure in script: User a.b-c has no permissions", "ERR ACL failure in script: this user has no permissions"),
        ("WRONGTYPE Operation against a key", "WRONGTYPE Operation against a key"),
    ],
)
def test_a_refusal_is_read_without_the_user(said: str, read: str) -> None:
    """Whatever the rest says."""
    reading = parser()
    reading.feed(b"-%b\r\n" % said.encode())
    assert str(reading.gets()) == read
